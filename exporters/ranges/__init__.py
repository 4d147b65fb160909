"""Ranges: from the values that a tensor takes to the interval that its integers cover.

A method is a class with the two functions of `exporters.base.Observer`, and one row of `exporters.METHODS`. None keeps
the values: what a tensor costs does not grow with the number of pictures.
"""
