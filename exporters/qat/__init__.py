"""Quantisation-aware training: a network learns with its rounding switched on, and becomes the file it was trained as.

A method says how weights and how activations are rounded, and what gradient flows through the rounding. A new one is a
file here and a row of `exporters.TRAINED`.
"""
