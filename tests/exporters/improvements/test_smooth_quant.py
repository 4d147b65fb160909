"""SmoothQuant: the network stays itself, and the channels are as large as the formula says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from exporters.base import ExportError
from exporters.improvements.base import Improved, Material
from exporters.improvements.smooth_quant import SmoothQuant
from tests.engines.tiny import pictures
from tests.exporters.improvements.networks import CALIBRATION, SIZE, constants, folded, material, mobile, transformer

PICTURES = pictures(6, seed=13, size=SIZE)


def smoothed(model: onnx.ModelProto, alpha: float = 0.5) -> tuple[onnx.ModelProto, Improved]:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    return changed, SmoothQuant(alpha)(changed, model, material())


def maxima(model: onnx.ModelProto) -> np.ndarray:
    """The largest magnitude of each channel of the normalised tensor, by ONNX's own evaluator."""
    (values,) = ReferenceEvaluator(model).run(["normal"], {"x": CALIBRATION})
    return np.abs(values).max(axis=(0, 1))


@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.8, 1.0])
def test_the_network_answers_as_before(tmp_path: Path, decomposed: bool, alpha: float) -> None:
    model = folded(transformer(tmp_path, decomposed=decomposed))
    changed, done = smoothed(model, alpha)
    onnx.checker.check_model(changed, full_check=True)
    assert done.changed == ("queries", "keys")
    before, after = (ReferenceEvaluator(each).run(["y"], {"x": PICTURES})[0] for each in (model, changed))
    assert np.abs(after - before).max() < 1e-5 * np.abs(before).max()


@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.8, 1.0])
def test_channels_are_as_large_as_the_formula_says(tmp_path: Path, decomposed: bool, alpha: float) -> None:
    model = folded(transformer(tmp_path, decomposed=decomposed))
    changed, _ = smoothed(model, alpha)
    values = constants(model)
    weights = np.maximum(np.abs(values["query"]).max(axis=1), np.abs(values["key"]).max(axis=1))
    s = maxima(model) ** alpha / weights ** (1 - alpha)
    assert np.allclose(maxima(changed), maxima(model) / s, rtol=1e-4)
    new = constants(changed)
    for node in changed.graph.node:
        if node.name in ("queries", "keys"):
            assert np.allclose(new[node.input[1]], values["query" if node.name == "queries" else "key"] * s[:, None])
    if alpha == 0.5:
        assert np.allclose(maxima(changed), np.sqrt(maxima(model) * weights), rtol=1e-4)
        assert maxima(changed).max() / maxima(changed).min() < maxima(model).max() / maxima(model).min() / 4


def test_a_tensor_that_others_read_too_is_left(tmp_path: Path) -> None:
    model = folded(transformer(tmp_path, residual=True))
    _, done = smoothed(model)
    assert not done.changed
    reasons = {each.layer: each.reason for each in done.left}
    assert reasons["queries"] == "skip (Add) reads the normalised tensor too, and has no weights to change"
    assert reasons["head"] == "no LayerNormalization with a scale of its own stands before it"


def test_a_network_without_normalisations_has_nothing_to_smooth(tmp_path: Path) -> None:
    _, done = smoothed(folded(mobile(tmp_path)))
    assert not done.changed
    assert [each.layer for each in done.left] == ["gemm"]


@pytest.mark.parametrize("alpha", [-0.1, 1.5])
def test_a_share_beyond_all_or_nothing_is_refused(alpha: float) -> None:
    with pytest.raises(ExportError, match="the share that moves into the weights, 0 to 1; got"):
        SmoothQuant(alpha)


def test_it_needs_pictures(tmp_path: Path) -> None:
    model = folded(transformer(tmp_path))
    with pytest.raises(ExportError, match="smooth-quant looks at calibration pictures; got none"):
        SmoothQuant()(model, model, Material(lambda: [], lambda what, items: items))
