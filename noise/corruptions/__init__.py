"""Corruptions of ImageNet-C (Hendrycks and Dietterich, 2019), one file each.

A corruption takes and returns uint8 HWC RGB and draws only from the generator that it is given. Constants and
order of operations are those of the original ``make_imagenet_c.py``; like there, the last cast truncates.
"""

# Raised with every change of any byte that a corruption makes; tests/noise/digests.json pins the bytes of each.
VERSION = 1
