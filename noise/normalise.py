"""Normalise: 8-bit levels become the numbers that the network was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

from noise.base import NoiseError, StepFunction


def float32(*, scale: float, mean: Sequence[float], std: Sequence[float]) -> StepFunction:
    """``(x / scale - mean) / std`` per channel; uint8 HWC in, float32 HWC out.

    Every operation rounds to float32, in this order, so the result has the bits of torchvision's ``ToTensor``
    and ``Normalize``. A channel has 256 possible levels, so the arithmetic is done once, into a table.
    """
    if len(mean) != 3 or len(std) != 3 or not all(std) or not scale:
        raise NoiseError(
            f"normalise needs three means, three non-zero deviations and a non-zero scale; "
            f"got mean {list(mean)}, std {list(std)}, scale {scale}"
        )
    levels = np.arange(256, dtype=np.float32)[:, None] / np.float32(scale)
    normalised = (levels - np.array(mean, np.float32)) / np.array(std, np.float32)
    table: npt.NDArray[np.float32] = normalised.astype(np.float32).reshape(1, 256, 3)

    def apply(picture: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.float32]:
        del rng
        return cast(npt.NDArray[np.float32], cv2.LUT(np.ascontiguousarray(picture), table))

    return apply
