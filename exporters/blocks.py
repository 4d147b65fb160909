"""Weights in blocks of 4-bit codes: one scale and one zero point per block, and three ways to choose them.

A weight [depth, columns] is cut along its depth, column by column, into blocks of 32 to 256 numbers; the last block of
a column is filled up with zeros. A method only chooses the grid of each block, its scale and zero point; a code is
always the grid's point nearest to the weight. Zero is on every grid, so that filling up costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]
Moments = npt.NDArray[np.float64]

LEVELS = 16
MIDDLE = 8  # the zero point of a symmetric grid: codes 0 to 15 stand for -8 to 7

# Half-quadratic quantisation as its authors publish it: norm, first penalty, its growth per step, number of steps.
HQQ_NORM, HQQ_PENALTY, HQQ_GROWTH, HQQ_STEPS = 0.7, 10.0, 1.01, 20

# Activation-aware clipping as its authors publish it: down to half of the range, in steps of a twentieth.
CLIP_RATIOS = tuple(1.0 - step / 20 for step in range(11))


@dataclass(frozen=True)
class Grid:
    """The 16 numbers that each block may use: ``(code - zero) * scale``.

    Args:
        scales: float32 [columns, blocks], above 0.
        zeros: uint8 [columns, blocks], 0 to 15.
    """

    scales: Floats
    zeros: Codes


class Method(Protocol):
    """A row of `exporters.int4_options.METHODS`: the grid of every block.

    Args:
        values: float32 [columns, blocks, block], from `blocks_of`.
        symmetric: whether every zero point is 8.
        moments: float64 [blocks, block, block], the sums of products of the layer's calibration inputs
            (`exporters.moments`); ``None`` for a method that does not look at them.
    """

    def __call__(self, values: Floats, symmetric: bool, moments: Moments | None) -> Grid: ...


def blocks_of(weight: Floats, block: int) -> Floats:
    """float32 [depth, columns] as [columns, blocks, block], the last block of a column filled up with zeros.

    >>> blocks_of(np.arange(6, dtype=np.float32).reshape(3, 2), 2).tolist()
    [[[0.0, 2.0], [4.0, 0.0]], [[1.0, 3.0], [5.0, 0.0]]]
    """
    depth, columns = weight.shape
    count = -(-depth // block)
    padded = np.zeros((columns, count * block), np.float32)
    padded[:, :depth] = weight.T
    return padded.reshape(columns, count, block)


def matrix_of(values: Floats, depth: int) -> Floats:
    """What `blocks_of` undoes: float32 [columns, blocks, block] as [depth, columns]."""
    return np.ascontiguousarray(values.reshape(len(values), -1)[:, :depth].T)


def encode(values: Floats, grid: Grid) -> Codes:
    """The nearest code of every weight, halves to even: uint8 [columns, blocks, block], 0 to 15."""
    codes = np.rint(values / grid.scales[..., None]) + grid.zeros[..., None]
    return np.asarray(np.clip(codes, 0, LEVELS - 1), np.uint8)


def decode(codes: Codes, grid: Grid) -> Floats:
    """The weights that codes stand for: float32 [columns, blocks, block]."""
    return (codes.astype(np.float32) - grid.zeros[..., None]) * grid.scales[..., None]


def rtn(values: Floats, symmetric: bool, moments: Moments | None = None) -> Grid:
    """Round to nearest: the finest grid that reaches the largest and the smallest weight of its block.

    No weight moves by more than half a step.
    """
    return _grid(*_range(values), symmetric)


def hqq(values: Floats, symmetric: bool, moments: Moments | None = None) -> Grid:
    """Half-quadratic quantisation: the least sum of ``|error| ** 0.7``, which forgives outliers. Looks at no picture.

    The error is split off by the shrinkage operator of that norm, then scale and zero point are solved for what
    remains, in turn. The authors keep the scale and let the zero point be any number; the kernels take whole zero
    points, so it is rounded here, and the scale is solved too. Errors are split in units of a block's first step, so
    that the penalty acts alike on weights of any size. The best grid that was met stays, round to nearest among them.

    Source: Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models", 2023.
    """
    best = grid = rtn(values, symmetric)
    least = hqq_loss(values, best)
    step = grid.scales[..., None]
    penalty = HQQ_PENALTY
    for _ in range(HQQ_STEPS):
        codes = encode(values, grid)
        target = values - step * _shrink((values - decode(codes, grid)) / step, penalty)
        grid = _fitted(codes, target, grid, symmetric)
        loss = hqq_loss(values, grid)
        better = loss < least
        best, least = _chosen(better, grid, best), np.where(better, loss, least)
        penalty *= HQQ_GROWTH
    return best


def awq_clip(values: Floats, symmetric: bool, moments: Moments | None = None) -> Grid:
    """Activation-aware clipping: of eleven ranges, the one with the least error of the block's output.

    The error is that of the products with the calibration inputs, so a weight that meets large inputs counts for more.
    It is computed from the inputs' second moments, which is the same sum: ``|x e|^2 = e' (x' x) e``.

    Source: Lin et al., "AWQ: Activation-aware Weight Quantization", 2023, section on weight clipping. Its other half,
    scaling of channels, would need a partner for the scale in the layer before and is left out.
    """
    if moments is None:
        raise ValueError("awq_clip needs the moments of the layer's inputs")
    low, high = _range(values)
    best = _grid(low, high, symmetric)
    least = output_loss(values, best, moments)
    for ratio in CLIP_RATIOS[1:]:
        grid = _grid(low * np.float32(ratio), high * np.float32(ratio), symmetric)
        loss = output_loss(values, grid, moments)
        better = loss < least
        best, least = _chosen(better, grid, best), np.where(better, loss, least)
    return best


def hqq_loss(values: Floats, grid: Grid) -> Floats:
    """What `hqq` minimises, for each block: float32 [columns, blocks]."""
    errors = np.abs(values - decode(encode(values, grid), grid))
    return np.asarray((errors**HQQ_NORM).sum(axis=-1), np.float32)


def output_loss(values: Floats, grid: Grid, moments: Moments) -> Floats:
    """What `awq_clip` minimises, the squared error of each block's output: float32 [columns, blocks]."""
    errors = (values - decode(encode(values, grid), grid)).transpose(1, 0, 2)
    return np.asarray(((errors @ moments.astype(np.float32)) * errors).sum(axis=-1).T, np.float32)


def _range(values: Floats) -> tuple[Floats, Floats]:
    return np.minimum(values.min(axis=-1), 0), np.maximum(values.max(axis=-1), 0)


def _grid(low: Floats, high: Floats, symmetric: bool) -> Grid:
    """The finest grid from ``low``, at most 0, to ``high``, at least 0."""
    if symmetric:
        scales = _usable(np.maximum(high / (LEVELS - 1 - MIDDLE), -low / MIDDLE))
        return Grid(scales, np.full(scales.shape, MIDDLE, np.uint8))
    scales = _usable((high - low) / (LEVELS - 1))
    return Grid(scales, np.clip(np.rint(-low / scales), 0, LEVELS - 1).astype(np.uint8))


def _usable(scales: npt.NDArray[np.floating[Any]]) -> Floats:
    """A block of zeros has no scale; any will do."""
    return np.where(scales < np.finfo(np.float32).tiny, 1.0, scales).astype(np.float32)


def _shrink(errors: Floats, penalty: float) -> Floats:
    """The generalised soft threshold: what of the errors the norm prefers to carry itself."""
    size = np.abs(errors)
    with np.errstate(divide="ignore"):  # an error of 0 has an infinite threshold, and stays 0
        threshold = size ** (HQQ_NORM - 1) / penalty
    return np.sign(errors) * np.maximum(size - threshold, 0)


def _fitted(codes: Codes, target: Floats, grid: Grid, symmetric: bool) -> Grid:
    """Zero points, then scales, that bring fixed codes nearest to ``target`` by least squares."""
    places = codes.astype(np.float32)
    zeros = grid.zeros
    if not symmetric:
        means = (places - target / grid.scales[..., None]).mean(axis=-1)
        zeros = np.clip(np.rint(means), 0, LEVELS - 1).astype(np.uint8)
    places -= zeros[..., None]
    squares = (places * places).sum(axis=-1)
    scales = (places * target).sum(axis=-1) / np.maximum(squares, 1)
    return Grid(np.where(scales > np.finfo(np.float32).tiny, scales, grid.scales).astype(np.float32), zeros)


def _chosen(first: npt.NDArray[np.bool_], grid: Grid, other: Grid) -> Grid:
    return Grid(np.where(first, grid.scales, other.scales), np.where(first, grid.zeros, other.zeros))
