"""Shot noise: the photons that reach a pixel are few enough to count."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from noise.base import NoiseError, StepFunction, severities
from noise.corruptions.draws import bits16

SETTINGS = severities("shot_noise", {"photons": 60}, {"photons": 25}, {"photons": 12}, {"photons": 5}, {"photons": 3})

MOST_PHOTONS = 250
UNDECIDED = 255
COLUMN_BITS = 12
DRAW_BITS = 48


def shot_noise(*, photons: float) -> StepFunction:
    """``clip(Poisson(x * photons) / photons)`` with x on [0, 1] (ImageNet-C). Works per value, so at any size.

    The same distribution as NumPy's ``poisson`` from one short draw per value: a picture has 256 values, so
    256 cumulative distributions are tabulated, up to the count at which the result is white. The upper 12 bits
    of a 16-bit draw find most counts in a table; where a step of the distribution falls inside a column of it,
    32 more bits are drawn and all 48 compared.
    """
    if not 1 <= photons <= MOST_PHOTONS:
        raise NoiseError(f"shot_noise needs 1 to {MOST_PHOTONS} photons; got {photons}")
    reached = cumulative(photons)
    columns = column_table(reached)
    value = (np.clip(np.arange(256) / photons, 0, 1) * 255).astype(np.uint8)

    def apply(picture: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        draw = bits16(rng, picture.shape)
        column = picture.astype(np.uint32)
        column <<= np.uint32(COLUMN_BITS)
        column |= draw >> np.uint16(16 - COLUMN_BITS)
        count = columns.take(column)
        undecided = np.flatnonzero(count == UNDECIDED)
        longer = draw.reshape(-1)[undecided].astype(np.uint64) << np.uint64(32)
        longer |= rng.integers(0, 1 << 32, undecided.size, dtype=np.uint64)
        count.reshape(-1)[undecided] = (reached[picture.reshape(-1)[undecided]] <= longer[:, None]).sum(axis=1)
        return np.asarray(cv2.LUT(count, value), np.uint8)

    return apply


def cumulative(photons: float) -> npt.NDArray[np.uint64]:
    """``2**48 * P(count <= k)`` for every value of a channel (rows) and every count k that is not yet white."""
    mean = np.arange(256)[:, None] / 255.0 * photons
    count = np.arange(math.ceil(photons))[None]
    log_factorial = np.array([math.lgamma(k + 1) for k in count[0]])
    probability = np.exp(count * np.log(np.maximum(mean, 1e-300)) - mean - log_factorial)
    return np.asarray(np.rint(probability.cumsum(axis=1) * 2.0**DRAW_BITS), np.uint64)


def column_table(reached: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    """The count for each value and each upper part of a draw, or `UNDECIDED` where the lower part matters."""
    shift, columns = np.uint64(DRAW_BITS - COLUMN_BITS), 1 << COLUMN_BITS
    inside = (reached >> shift).astype(np.intp)  # the column that a step falls into
    starts = inside + (reached != inside.astype(np.uint64) << shift)  # the first column that lies behind it
    table = np.empty((256, columns), np.uint8)
    for row, each, start in zip(table, inside, starts, strict=True):
        low = np.bincount(start, minlength=columns + 1)[:columns].cumsum()
        high = np.bincount(each, minlength=columns + 1)[:columns].cumsum()
        row[:] = np.where(low == high, low, UNDECIDED)
    return table.ravel()
