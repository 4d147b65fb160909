"""Improvements: what makes a quantised file answer more like its float model, without training.

Some rewrite the float model before it is calibrated, to an equal one whose numbers are kinder to integers; some choose
integers or biases of the Q/DQ file better than rounding did. A new one is a file here and a row of
`exporters.IMPROVEMENTS`.
"""
