"""JPEG compression: the picture goes through a lossy encoder once more."""

from __future__ import annotations

import io

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from noise.base import StepFunction, severities

SETTINGS = severities(
    "jpeg_compression", {"quality": 25}, {"quality": 18}, {"quality": 15}, {"quality": 10}, {"quality": 7}
)


def jpeg_compression(*, quality: int) -> StepFunction:
    """Pillow's JPEG encoder at ``quality`` (4:2:0), and a decoder (ImageNet-C, whose decoder is Pillow's too).

    The pixels depend on the JPEG library under Pillow, which a run therefore records. OpenCV decodes: twice as
    fast as Pillow, and to the same pixels where both stand on libjpeg-turbo, as their wheels do.
    """

    def apply(picture: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        del rng
        stored = io.BytesIO()
        Image.fromarray(picture).save(stored, format="JPEG", quality=quality)
        decoded = np.asarray(cv2.imdecode(np.frombuffer(stored.getbuffer(), np.uint8), cv2.IMREAD_COLOR), np.uint8)
        return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)

    return apply
