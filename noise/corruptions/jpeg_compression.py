"""JPEG compression: the picture goes through a lossy encoder once more."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from noise.base import StepFunction, severities

SETTINGS = severities(
    "jpeg_compression", {"quality": 25}, {"quality": 18}, {"quality": 15}, {"quality": 10}, {"quality": 7}
)


def jpeg_compression(*, quality: int) -> StepFunction:
    """Pillow's JPEG encoder at ``quality`` (4:2:0) and its decoder (ImageNet-C).

    The pixels depend on the JPEG library under Pillow, which a run therefore records.
    """

    def apply(picture: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        del rng
        stored = io.BytesIO()
        Image.fromarray(picture).save(stored, format="JPEG", quality=quality)
        return np.array(Image.open(stored).convert("RGB"))

    return apply
