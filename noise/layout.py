"""Layout: the order of the axes that the engine's input has."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from noise.base import StepFunction


def nchw() -> StepFunction:
    """Height x width x 3 becomes 3 x height x width, as a view: the copy into a batch puts it in order."""

    def apply(picture: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
        del rng
        return picture.transpose(2, 0, 1)

    return apply


def nhwc() -> StepFunction:
    """Height x width x 3 stays as it is."""

    def apply(picture: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
        del rng
        return picture

    return apply
