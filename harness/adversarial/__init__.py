"""Adversarial pictures: made once by an attack, stored, given to every engine, and judged.

In the order of the line: `request` says what is to be made, `models` are what can be attacked, `make` attacks and
stores, `sets` is what is stored; an ordinary run measures it; `metrics` compares, `masking` doubts.
"""
