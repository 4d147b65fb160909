"""Layout: the order of the axes that the engine's input has."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from noise.base import Change, StepFunction

Values = npt.NDArray[np.float32]

SETTINGS = {"taken-for-the-other": Change("layout", {"misread": True})}


def nchw(*, misread: bool = False) -> StepFunction:
    """Height x width x 3 becomes 3 x height x width, as a view: the copy into a batch puts it in order.

    Args:
        misread: the buffer keeps interleaved channels and is only called 3 x height x width, by ``reshape``: what a
            network sees that is handed NHWC memory for NCHW.
    """

    def apply(picture: Values, rng: np.random.Generator) -> Values:
        del rng
        if misread:
            return picture.reshape(3, *picture.shape[:2])
        return picture.transpose(2, 0, 1)

    return apply


def nhwc(*, misread: bool = False) -> StepFunction:
    """Height x width x 3 stays as it is.

    Args:
        misread: the buffer holds planes and is only called height x width x 3: NCHW memory taken for NHWC.
    """

    def apply(picture: Values, rng: np.random.Generator) -> Values:
        del rng
        if misread:
            return np.ascontiguousarray(picture.transpose(2, 0, 1)).reshape(picture.shape)
        return picture

    return apply
