"""Quantisers for training: each paper's formula, its gradient by finite differences, and the integers behind it."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exporters import TRAINED
from exporters.base import ExportError
from exporters.qat.base import BITS, Levels, Method, Quantiser
from exporters.qat.dorefa import SquashedWeights
from exporters.qat.lsq import LearnedStep
from exporters.qat.pact import LearnedClip


def method(name: str) -> Method:
    module, _, attribute = TRAINED[name].target.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    assert isinstance(found, Method)
    return found


def every_quantiser(name: str, bits: int, values: torch.Tensor) -> list[Quantiser]:
    weights = [method(name).weights(Levels(bits, signed=True), values, axis) for axis in (None, 0, 1)]
    reach = float(values.abs().max())
    return [*weights, *(method(name).activations(Levels(bits, signed=signed), reach) for signed in (False, True))]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", TRAINED)
def test_what_is_trained_is_what_the_integers_of_the_device_stand_for(name: str, bits: int) -> None:
    values = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(bits))
    for quantiser in every_quantiser(name, bits, values):
        codes = quantiser.codes(values)
        assert codes.dtype == torch.int32
        assert codes.min() >= (-128 if quantiser.levels.signed else 0)
        assert codes.max() <= (127 if quantiser.levels.signed else 255)
        assert len(codes.unique()) <= 2**bits
        assert (quantiser.scale() > 0).all()
        real = quantiser.spread(quantiser.scale(), values) * codes
        torch.testing.assert_close(quantiser(values), real, rtol=1e-5, atol=1e-6)


@settings(deadline=None)
@given(st.integers(2, 8), st.floats(1e-3, 10), st.integers(0, 2**32 - 1), st.booleans())
def test_lsq_rounds_by_equations_1_and_2(bits: int, step: float, seed: int, signed: bool) -> None:
    values = np.random.default_rng(seed).normal(size=(4, 7)).astype(np.float32)
    lowest, highest = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    start = torch.tensor(step)
    got = LearnedStep(Levels(bits, signed=signed), start)(torch.from_numpy(values)).detach().numpy()
    ratio = values / start.numpy()
    np.testing.assert_allclose(got, np.round(np.clip(ratio, lowest, highest)) * start.numpy(), rtol=1e-6, atol=1e-7)


def test_the_gradients_of_lsq_are_those_of_equations_3_and_5_and_scaled_as_in_section_2_2() -> None:
    values = torch.tensor([[-3.0, -0.3, 0.1, 0.74], [0.9, 1.4, 5.0, -0.76]], requires_grad=True)
    quantiser = LearnedStep(Levels(3, signed=True), torch.tensor(0.5))
    upstream = torch.arange(1.0, 9.0).reshape(2, 4)
    quantiser(values).backward(upstream)
    ratio = values.detach() / 0.5
    inside = (ratio > -4) & (ratio < 3)
    by_hand = torch.where(inside, torch.round(ratio) - ratio, torch.where(ratio < 0, -4.0, 3.0))
    expected = (by_hand * upstream).sum() / math.sqrt(8 * 3)
    torch.testing.assert_close(quantiser.step.grad, expected)
    torch.testing.assert_close(values.grad, inside * upstream)


def test_steps_of_activations_count_the_values_of_one_picture() -> None:
    grads = []
    for pictures in (1, 5):
        values = torch.linspace(0, 2, 12).repeat(pictures, 1)
        quantiser = LearnedStep(Levels(4, signed=False), torch.tensor(0.07), batched=True)
        quantiser(values).mean(dim=0).sum().backward()
        grads.append(quantiser.step.grad)
    torch.testing.assert_close(grads[0], grads[1])


def test_pact_clips_rounds_and_learns_by_equations_1_to_3() -> None:
    values = torch.tensor([-0.2, 0.0, 0.31, 0.9, 1.49, 1.51, 4.0], requires_grad=True)
    quantiser = LearnedClip(Levels(2, signed=False), 1.5)
    got = quantiser(values)
    torch.testing.assert_close(got.detach(), torch.tensor([0.0, 0.0, 0.5, 1.0, 1.5, 1.5, 1.5]))
    got.sum().backward()
    assert quantiser.clip.grad == 2
    assert values.grad is not None
    assert values.grad[2:].tolist() == [1, 1, 1, 0, 0]
    assert values.grad[0] == 0


@pytest.mark.parametrize("bits", [2, 3, 4, 7])
def test_dorefa_squashes_weights_by_equation_9(bits: int) -> None:
    values = torch.randn(40, generator=torch.Generator().manual_seed(1))
    quantiser = SquashedWeights(Levels(bits, signed=True), torch.tensor(1.0))
    squashed = np.tanh(values.numpy())
    share = squashed / (2 * np.abs(squashed).max()) + 0.5
    steps = 2**bits - 1
    np.testing.assert_allclose(quantiser(values).numpy(), 2 * np.round(share * steps) / steps - 1, atol=1e-6)
    assert set(np.unique(quantiser.codes(values).numpy() % 2)) == {1}  # zero is no level


class TestStraightThrough:
    """Autograd against finite differences of the same formula, written again in NumPy, with each rounding held fast."""

    EPSILON = 1e-6

    def check(self, quantiser: Quantiser, values: np.ndarray, learned: str, formula: object) -> None:
        quantiser = quantiser.double()
        inputs = torch.tensor(values, requires_grad=True)
        upstream = np.random.default_rng(5).normal(size=values.shape)
        quantiser(inputs).backward(torch.from_numpy(upstream))
        assert callable(formula)
        for index in np.ndindex(values.shape):
            moved = [values.copy(), values.copy()]
            moved[0][index] += self.EPSILON
            moved[1][index] -= self.EPSILON
            above, below = (formula(each, None) for each in moved)
            expected = ((above - below) * upstream).sum() / (2 * self.EPSILON)
            assert inputs.grad is not None
            assert inputs.grad[index].item() == pytest.approx(expected, abs=1e-6)
        if learned:
            parameter = getattr(quantiser, learned)
            value = parameter.item()
            above, below = (formula(values, value + sign * self.EPSILON) for sign in (1, -1))
            expected = ((above - below) * upstream).sum() / (2 * self.EPSILON)
            factor = 1 / math.sqrt(values.size * quantiser.levels.highest) if learned == "step" else 1.0
            assert parameter.grad.item() == pytest.approx(expected * factor, abs=1e-6)

    def test_of_lsq(self) -> None:
        values = np.random.default_rng(2).normal(size=(3, 4))
        ratio = np.clip(values / 0.25, -8, 7)
        residue = np.round(ratio) - ratio

        def formula(v: np.ndarray, step: float | None) -> np.ndarray:
            s = 0.25 if step is None else step
            return s * (np.clip(v / s, -8, 7) + residue)

        self.check(LearnedStep(Levels(4, signed=True), torch.tensor(0.25)), values, "step", formula)

    @pytest.mark.parametrize("signed", [False, True])
    def test_of_pact(self, signed: bool) -> None:
        values = np.random.default_rng(3).normal(size=(3, 4))

        def formula(v: np.ndarray, clip: float | None) -> np.ndarray:
            a = 0.8 if clip is None else clip
            return np.clip(v, -a if signed else 0, a)

        self.check(LearnedClip(Levels(4, signed=signed), 0.8), values, "clip", formula)

    def test_of_dorefa(self) -> None:
        values = np.random.default_rng(4).normal(size=(3, 4))

        def formula(v: np.ndarray, _: float | None) -> np.ndarray:
            squashed = np.tanh(v)
            return 1.5 * squashed / np.abs(squashed).max()

        self.check(SquashedWeights(Levels(4, signed=True), torch.tensor(1.5)), values, "", formula)


@pytest.mark.parametrize("name", TRAINED)
def test_channels_are_quantised_each_by_itself(name: str) -> None:
    values = torch.randn(4, 3, generator=torch.Generator().manual_seed(7)) * torch.tensor([[1.0], [10.0], [0.1], [3.0]])
    together = method(name).weights(Levels(4, signed=True), values, 0)
    for channel, row in enumerate(values):
        alone = method(name).weights(Levels(4, signed=True), row, None)
        torch.testing.assert_close(together(values)[channel], alone(row))


@pytest.mark.parametrize("name", TRAINED)
def test_tensors_of_zeros_and_negative_steps_make_no_nan(name: str) -> None:
    zeros = torch.zeros(3, 2)
    for quantiser in every_quantiser(name, 4, zeros):
        assert torch.isfinite(quantiser(zeros)).all()
        for parameter in quantiser.parameters():
            parameter.data.fill_(-0.5)
        assert (quantiser.scale() > 0).all()


@pytest.mark.parametrize("bits", [1, 9])
def test_other_bits_are_refused(bits: int) -> None:
    with pytest.raises(ExportError, match=f"2 to 8 bits; got {bits}"):
        Levels(bits, signed=True)


@pytest.mark.parametrize("axis", [None, 0])
@pytest.mark.parametrize("name", TRAINED)
def test_weights_begin_as_they_were_however_large(name: str, axis: int | None) -> None:
    weights = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(1)) * torch.tensor([0.01, 0.3, 8.0])
    quantiser = method(name).weights(Levels(8, signed=True), weights, axis)
    learnt = quantiser.standing_for(weights)
    assert torch.isfinite(learnt).all()
    torch.testing.assert_close(quantiser.unrounded(learnt), weights, rtol=1e-4, atol=1e-5)
