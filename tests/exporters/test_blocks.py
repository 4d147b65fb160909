"""Blocks of 4-bit codes: packing loses nothing, no weight moves too far, each method is best by its measure."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnxruntime.capi import _pybind_state as runtime

from exporters.blocks import (
    Floats,
    Moments,
    awq_clip,
    blocks_of,
    decode,
    encode,
    hqq,
    hqq_loss,
    matrix_of,
    output_loss,
    rtn,
)
from exporters.nbits import packed, unpacked

# A loaded machine is slow, not wrong; and a test that fails must fail again.
unhurried = settings(deadline=None, derandomize=True)

weights = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 70), st.integers(1, 5)),
    elements=st.floats(-100, 100, width=32, allow_subnormal=False),
)


def draw(depth: int, columns: int, seed: int = 0) -> Floats:
    """Weights with heavy tails, as networks have them."""
    return np.random.default_rng(seed).standard_t(4, (depth, columns)).astype(np.float32)


def moments_of(inputs: Floats, block: int) -> Moments:
    """By the definition: float32 [rows, depth] to [blocks, block, block]."""
    blocks = -(-inputs.shape[1] // block)
    padded = np.pad(inputs, ((0, 0), (0, blocks * block - inputs.shape[1])))
    parts = [padded[:, index * block : (index + 1) * block] for index in range(blocks)]
    return np.stack([part.T.astype(np.float64) @ part for part in parts])


@unhurried
@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 33)), elements=st.integers(0, 15)))
def test_packing_loses_nothing(codes: np.ndarray) -> None:
    pairs = packed(codes)
    assert pairs.shape == (codes.shape[0], (codes.shape[1] + 1) // 2)
    assert (unpacked(pairs, codes.shape[1]) == codes).all()


@unhurried
@given(weights, st.sampled_from([16, 32, 64]))
def test_blocks_are_the_columns_cut_up(weight: Floats, block: int) -> None:
    values = blocks_of(weight, block)
    assert (matrix_of(values, len(weight)) == weight).all()
    for column in range(weight.shape[1]):
        for row in range(len(weight)):
            assert values[column, row // block, row % block] == weight[row, column]
    assert values.sum(dtype=np.float64) == pytest.approx(weight.sum(dtype=np.float64), abs=1e-3)


@unhurried
@given(weights, st.sampled_from([16, 32]), st.booleans())
def test_rounding_to_nearest_moves_no_weight_by_more_than_half_a_step(
    weight: Floats, block: int, symmetric: bool
) -> None:
    values = blocks_of(weight, block)
    grid = rtn(values, symmetric)
    errors = np.abs(values - decode(encode(values, grid), grid))
    assert (errors <= grid.scales[..., None] * 0.5 * (1 + 1e-5)).all()


@unhurried
@given(weights, st.booleans(), st.sampled_from([rtn, hqq]))
def test_zero_stays_zero(weight: Floats, symmetric: bool, method: object) -> None:
    weight[::2] = 0
    values = blocks_of(weight, 16)
    grid = method(values, symmetric, None)  # type: ignore[operator]
    assert (decode(encode(values, grid), grid)[values == 0] == 0).all()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("block", [32, 64, 128])
@pytest.mark.parametrize("depth", [128, 100])
def test_half_quadratic_is_no_worse_than_rounding_by_its_own_measure(depth: int, block: int, symmetric: bool) -> None:
    values = blocks_of(draw(depth, 40), block)
    ours, nearest = (hqq_loss(values, method(values, symmetric)) for method in (hqq, rtn))
    assert (ours <= nearest).all()
    assert ours.sum() < 0.99 * nearest.sum()


def test_half_quadratic_does_not_depend_on_the_unit_of_the_weights() -> None:
    values = blocks_of(draw(128, 20), 32)
    one, other = hqq(values, False), hqq(values / 1024, False)
    assert (one.zeros == other.zeros).all()
    assert np.allclose(one.scales, other.scales * 1024)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("block", [32, 64, 128])
@pytest.mark.parametrize("depth", [128, 100])
def test_clipping_is_no_worse_than_rounding_by_its_own_measure(depth: int, block: int, symmetric: bool) -> None:
    values = blocks_of(draw(depth, 40), block)
    inputs = np.abs(draw(300, depth, seed=1))
    moments = moments_of(inputs, block)
    ours, nearest = (output_loss(values, m(values, symmetric, moments), moments) for m in (awq_clip, rtn))
    assert (ours <= nearest).all()
    assert ours.sum() < 0.95 * nearest.sum()


def test_loss_of_the_output_is_the_squared_error_of_the_products() -> None:
    inputs, weight = draw(50, 64, seed=2), draw(64, 7)
    values = blocks_of(weight, 32)
    grid = rtn(values, True)
    errors = values - decode(encode(values, grid), grid)
    expected = [[((inputs[:, 32 * b : 32 * b + 32] @ errors[c, b]) ** 2).sum() for b in range(2)] for c in range(7)]
    assert np.allclose(output_loss(values, grid, moments_of(inputs, 32)), expected, rtol=1e-3)


def test_clipping_without_moments_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="needs the moments"):
        awq_clip(blocks_of(draw(32, 2), 32), True, None)


@pytest.mark.parametrize(("depth", "block"), [(128, 32), (128, 64), (100, 32), (256, 128)])
def test_codes_are_those_of_onnxruntime(depth: int, block: int) -> None:
    """With a zero point: ONNX Runtime's own quantiser, in C++. (Its symmetric grid clips one end, ours does not.)"""
    weight = draw(depth, 9)
    blocks = -(-depth // block)
    padded = np.pad(weight, ((0, blocks * block - depth), (0, 0)))
    codes = np.zeros((9, blocks, block // 2), np.uint8)
    scales = np.zeros((9, blocks), np.float32)
    zeros = np.zeros((9, (blocks + 1) // 2), np.uint8)
    runtime.quantize_matmul_4bits(codes, padded, scales, zeros, block, 9, depth, False)
    values = blocks_of(weight, block)
    grid = rtn(values, False)
    assert np.allclose(grid.scales, scales, rtol=1e-6)
    assert (unpacked(zeros, blocks) == grid.zeros).all()
    theirs = unpacked(codes, block).reshape(9, -1)[:, :depth]
    ours = encode(values, grid).reshape(9, -1)[:, :depth]
    # A weight halfway between two codes may go either way.
    assert np.abs(theirs.astype(int) - ours).max() <= 1
    assert (theirs == ours).mean() > 0.999
