"""Crop: the part of the picture that the network sees."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from noise.base import Change, NoiseError, Ratio, Step, StepFunction, check_size

Offset: TypeAlias = Callable[[float], int]

# How half a pixel is rounded.
OFFSETS: dict[str, Offset] = {
    "half_even": round,
    "half_up": lambda x: math.floor(x + 0.5),
    "floor": math.floor,
}

# How much of the picture the crop sees, and from where. All but the offsets change the resize that comes before.
SETTINGS = {
    "offset-half-even": Step("crop", "centre", {"offset": "half_even"}),
    "offset-floor": Step("crop", "centre", {"offset": "floor"}),
    "offset-half-up": Step("crop", "centre", {"offset": "half_up"}),
    "fraction-0.875": Change("resize", {"size": Ratio("crop", "size", 1 / 0.875)}),
    "fraction-0.9": Change("resize", {"size": Ratio("crop", "size", 1 / 0.9)}),
    "fraction-1.0": Change("resize", {"size": Ratio("crop", "size")}),
    "shorter-side": Change("resize", {"geometry": "shorter_side"}, needs="crop"),
    "square": Change("resize", {"geometry": "square"}),
    "letterbox": Change("resize", {"geometry": "letterbox", "size": Ratio("crop", "size")}),
}


def centre(*, size: int, offset: str = "half_even") -> StepFunction:
    """``size x size`` pixels from the middle, ``picture[top : top + size, left : left + size]``.

    Args:
        size: in pixels.
        offset: how ``(height - size) / 2`` becomes ``top``, and the same for ``left``: "half_even" is Python's
            ``round``, as in torchvision's ``CenterCrop`` (58.5 -> 58, 59.5 -> 60); "half_up" is C's ``lround``;
            "floor" is integer division, as in most device code.

    Raises (when applied):
        NoiseError: the picture is smaller than the crop. Padding would invent pixels.
    """
    check_size("crop", size)
    if offset not in OFFSETS:
        raise NoiseError(f"a crop's offset must be one of {', '.join(OFFSETS)}; got {offset!r}")
    whole = OFFSETS[offset]

    def apply(picture: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        del rng
        height, width = picture.shape[:2]
        if min(height, width) < size:
            raise NoiseError(f"a {size} x {size} crop does not fit a picture of {height} x {width}")
        top, left = whole((height - size) / 2), whole((width - size) / 2)
        return picture[top : top + size, left : left + size]

    return apply
