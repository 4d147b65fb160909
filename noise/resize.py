"""Resize: the step in which training and device most often differ.

"Bilinear" is not one filter. Pillow widens its kernel when it shrinks a picture, so that every source pixel
counts; OpenCV's kernel keeps its width and skips pixels. The same name gives different pictures.
"""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from noise.base import NoiseError, Step, StepFunction, check_size

Picture = npt.NDArray[np.uint8]

# A strip of a few pixels' height would be resized to gigabytes. 32 million pixels are an aspect of 500 at 256.
MAX_PIXELS = 1 << 25

PILLOW_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
OPENCV_FILTERS = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
}

# What a device commonly does instead of the Pillow resize that networks are trained with.
SETTINGS = {name: Step("resize", "opencv", {"filter": name}) for name in OPENCV_FILTERS}


def target_size(height: int, width: int, geometry: str, size: int) -> tuple[int, int]:
    """Height and width after the resize.

    Args:
        geometry: "shorter_side" keeps the aspect ratio as torchvision's ``Resize(size)`` does, the longer
            side rounded down; "square" is ``size x size``, as in ImageNet-S.

    >>> target_size(375, 500, "shorter_side", 256)
    (256, 341)
    """
    if geometry == "square":
        return size, size
    longer = int(size * max(height, width) / min(height, width))
    target = (size, longer) if height <= width else (longer, size)
    if target[0] * target[1] > MAX_PIXELS:
        raise NoiseError(f"a picture of {height} x {width} would be resized to {target[0]} x {target[1]} pixels")
    return target


def pillow(*, geometry: str, size: int, filter: str, ready_size: int | None = None) -> StepFunction:
    """Pillow's ``Image.resize``; uint8 HWC RGB in and out.

    Args:
        geometry, size: see `target_size`.
        filter: a key of `PILLOW_FILTERS`.
        ready_size: a picture of exactly this height and width is ready, and passes unchanged. ImageNet-C's are;
            resized a second time they are softer than what was published.
    """
    resample = _choice(filter, PILLOW_FILTERS, "Pillow")
    _check_target(geometry, size)

    def apply(picture: Picture, rng: np.random.Generator) -> Picture:
        del rng
        if picture.shape[:2] == (ready_size, ready_size):
            return picture
        height, width = target_size(picture.shape[0], picture.shape[1], geometry, size)
        return np.asarray(Image.fromarray(picture).resize((width, height), resample))

    return apply


def opencv(*, geometry: str, size: int, filter: str, ready_size: int | None = None) -> StepFunction:
    """``cv2.resize``; uint8 HWC RGB in and out. ``filter`` is a key of `OPENCV_FILTERS`; the rest as above."""
    interpolation = _choice(filter, OPENCV_FILTERS, "OpenCV")
    _check_target(geometry, size)

    def apply(picture: Picture, rng: np.random.Generator) -> Picture:
        del rng
        if picture.shape[:2] == (ready_size, ready_size):
            return picture
        height, width = target_size(picture.shape[0], picture.shape[1], geometry, size)
        return cast(Picture, cv2.resize(picture, (width, height), interpolation=interpolation))

    return apply


def _check_target(geometry: str, size: int) -> None:
    if geometry not in ("shorter_side", "square"):
        raise NoiseError(f"a resize's geometry must be 'shorter_side' or 'square'; got {geometry!r}")
    check_size("resize", size)


def _choice(name: str, filters: dict[str, Image.Resampling] | dict[str, int], library: str) -> int:
    if name not in filters:
        raise NoiseError(f"{library} has no resize filter {name!r}; choose from {', '.join(filters)}")
    return int(filters[name])
