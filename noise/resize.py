"""Resize: the step in which training and device most often differ.

"Bilinear" is not one filter. Pillow widens its kernel when it shrinks a picture, so that every source pixel
counts; OpenCV's kernel keeps its width and skips pixels. The same name gives different pictures. The resize of PyTorch
stands in a file of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar, cast

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from noise.base import Change, NoiseError, Step, StepFunction, check_size

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
    "nearest-exact": cv2.INTER_NEAREST_EXACT,
    "bilinear-exact": cv2.INTER_LINEAR_EXACT,
    "lanczos4": cv2.INTER_LANCZOS4,
}
# filter of torch -> whether it widens its kernel when it shrinks a picture; the others cannot.
TORCH_FILTERS = {
    "nearest": (False,),
    "nearest-exact": (False,),
    "area": (False,),
    "bilinear": (False, True),
    "bicubic": (False, True),
}
GEOMETRIES = ("shorter_side", "square", "letterbox")
BORDER = 114  # the grey that YOLO's letterbox is filled with

# The bare names are OpenCV's: what a device commonly does instead of the Pillow resize that networks are trained with.
SETTINGS = {
    **{name: Step("resize", "opencv", {"filter": name}) for name in OPENCV_FILTERS},
    **{f"pillow-{name}": Step("resize", "pillow", {"filter": name, "reducing_gap": None}) for name in PILLOW_FILTERS},
    # A gap of 1 acts on every picture of twice the size; one of 2, which Pillow's thumbnails have, from 4 times on.
    **{
        f"pillow-{name}-reducing": Step("resize", "pillow", {"filter": name, "reducing_gap": 1.0})
        for name in PILLOW_FILTERS
        if name != "nearest"
    },
    **{
        f"torch-{name}{'-antialias' if antialias else ''}": Step(
            "resize", "torch", {"filter": name, "antialias": antialias}
        )
        for name, choices in TORCH_FILTERS.items()
        for antialias in choices
    },
}

# Every filter in one geometry, whatever the artifact declares: two differences at once, where it declares another one.
SQUARE_SETTINGS, SHORTER_SIDE_SETTINGS = (
    {name: (step, Change("resize", {"geometry": geometry}, needs=needs)) for name, step in SETTINGS.items()}
    for geometry, needs in (("square", ""), ("shorter_side", "crop"))
)


def target_size(height: int, width: int, geometry: str, size: int) -> tuple[int, int]:
    """Height and width to which the picture itself is resized.

    Args:
        geometry: "shorter_side" keeps the aspect ratio as torchvision's ``Resize(size)`` does, the longer
            side rounded down; "square" is ``size x size``, as in ImageNet-S; "letterbox" makes the longer side ``size``
            and rounds the shorter one to the nearest pixel, halves to even, as YOLO does.

    >>> target_size(375, 500, "shorter_side", 256)
    (256, 341)
    >>> target_size(375, 500, "letterbox", 224)
    (168, 224)
    """
    if geometry == "square":
        return size, size
    if geometry == "letterbox":
        ratio = size / max(height, width)
        return max(1, round(height * ratio)), max(1, round(width * ratio))
    longer = int(size * max(height, width) / min(height, width))
    target = (size, longer) if height <= width else (longer, size)
    if target[0] * target[1] > MAX_PIXELS:
        raise NoiseError(f"a picture of {height} x {width} would be resized to {target[0]} x {target[1]} pixels")
    return target


Scale = Callable[[Picture, int, int], Picture]


def resizing(scale: Scale, geometry: str, size: int, ready_size: int | None) -> StepFunction:
    """A resize step around a library's call: what all of them share.

    Args:
        scale: picture, height, width -> the picture of that size.
        geometry, size: see `target_size`; behind "letterbox" a border of grey `BORDER` makes the picture
            ``size x size``, the odd pixel below and on the right.
        ready_size: a picture of exactly this height and width is ready, and passes unchanged. ImageNet-C's are;
            resized a second time they are softer than what was published.

    Raises:
        NoiseError: no such geometry, no such size.
    """
    if geometry not in GEOMETRIES:
        raise NoiseError(f"a resize's geometry must be {_either(GEOMETRIES)}; got {geometry!r}")
    check_size("resize", size)

    def apply(picture: Picture, rng: np.random.Generator) -> Picture:
        del rng
        if picture.shape[:2] == (ready_size, ready_size):
            return picture
        height, width = target_size(picture.shape[0], picture.shape[1], geometry, size)
        resized = scale(picture, height, width)
        return _bordered(resized, size) if geometry == "letterbox" else resized

    return apply


def _bordered(picture: Picture, size: int) -> Picture:
    rows, columns = size - picture.shape[0], size - picture.shape[1]
    sides = (rows // 2, rows - rows // 2, columns // 2, columns - columns // 2)
    return cast(Picture, cv2.copyMakeBorder(picture, *sides, cv2.BORDER_CONSTANT, value=(BORDER,) * 3))


def pillow(
    *, geometry: str, size: int, filter: str, ready_size: int | None = None, reducing_gap: float | None = None
) -> StepFunction:
    """``Image.resize((width, height), filter, reducing_gap=...)`` of Pillow 10.3 and later; uint8 HWC RGB in and out.

    When it shrinks, the filter grows with the new pixel: "box" is 1 new pixel wide, "bilinear" and "hamming" 2,
    "bicubic" 4 and "lanczos" 6. "nearest" takes the pixel under the middle of the new one. Coefficients and sums are in
    fixed point (22 bits behind the point), rounded to the nearest level after each of the two passes.

    Args:
        geometry, size, ready_size: see `resizing`.
        filter: a key of `PILLOW_FILTERS`.
        reducing_gap: shrink by a whole factor with ``Image.reduce`` first, so far that this many times the size
            remains, at least 1; ``None`` does without.
    """
    resample = filter_of(filter, PILLOW_FILTERS, "Pillow")
    if reducing_gap is not None and reducing_gap < 1:
        raise NoiseError(f"reducing_gap must be at least 1; got {reducing_gap}")

    def scale(picture: Picture, height: int, width: int) -> Picture:
        image = Image.fromarray(picture)
        return np.asarray(image.resize((width, height), Image.Resampling(resample), reducing_gap=reducing_gap))

    return resizing(scale, geometry, size, ready_size)


def opencv(*, geometry: str, size: int, filter: str, ready_size: int | None = None) -> StepFunction:
    """``cv2.resize(picture, (width, height), interpolation=...)`` of OpenCV 4.9 and later; uint8 HWC RGB in and out.

    Kernels keep their width when they shrink a picture, except that of "area". "bilinear", "bicubic" and "lanczos4",
    whose kernel is 8 pixels wide, have coefficients of 11 bits. Against sums in double precision (500 x 375 to
    341 x 256, OpenCV 5.0) "bicubic" errs by at most half a level, "lanczos4" by up to 0.8 and on average not at all;
    "bilinear" truncates between its passes, and errs by -0.8 to +0.5, on average by -0.13. "area" is the mean of the
    pixels that the new one covers; when it enlarges by a whole factor it repeats pixels. The "exact" ones are the same
    bits on every processor; "nearest" takes ``floor(x * scale)``, "nearest-exact" the pixel whose middle is nearest, as
    Pillow does.

    Args:
        geometry, size, ready_size: see `resizing`.
        filter: a key of `OPENCV_FILTERS`.
    """
    interpolation = filter_of(filter, OPENCV_FILTERS, "OpenCV")

    def scale(picture: Picture, height: int, width: int) -> Picture:
        return cast(Picture, cv2.resize(picture, (width, height), interpolation=interpolation))

    return resizing(scale, geometry, size, ready_size)


Choice = TypeVar("Choice")


def filter_of(name: str, filters: Mapping[str, Choice], library: str) -> Choice:
    """What a library calls a filter.

    Raises:
        NoiseError: it has none of that name.
    """
    if name not in filters:
        raise NoiseError(f"{library} has no resize filter {name!r}; choose from {', '.join(filters)}")
    return filters[name]


def _either(names: Sequence[str]) -> str:
    return f"{', '.join(map(repr, names[:-1]))} or {names[-1]!r}"
