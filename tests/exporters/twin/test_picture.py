"""Pictures: the same numbers as the pipeline's at whole grey levels, and the gradient that the formula has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from engines.artifact import Artifact
from engines.base import EngineOptions, call
from engines.onnx_file import artifact_from_onnx
from engines.ort import open_cpu
from exporters.base import ExportError
from exporters.levels import with_levels
from noise.base import Pipeline, Step
from noise.colour import SETTINGS, bgr
from noise.layout import nchw, nhwc
from noise.normalise import float16, float32, integer, quantised
from tests.engines.tiny import Shape, tiny, tiny_artifact

torch = pytest.importorskip("torch")

from exporters.twin.network import Twin, twin_from_artifact  # noqa: E402
from exporters.twin.picture import picture_model  # noqa: E402

NUMBERS: dict[str, Any] = {"scale": 255.0, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
NORMALISATIONS = {
    "float32": (float32, {}),
    "float16": (float16, {}),
    "integer": (integer, {}),
    "quantised-uint8": (quantised, {"codes": "uint8"}),
    "quantised-int8": (quantised, {"codes": "int8"}),
    "quantised-given": (quantised, {"codes": "uint8", "step": 0.02, "zero": 110}),
}
LAYOUTS = {"nchw": nchw, "nhwc": nhwc}
RNG = np.random.default_rng(0)


def echo() -> Twin:
    """The twin of a network that says what it is given."""
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])],
        "echo",
        [value("x", onnx.TensorProto.FLOAT, None)],
        [value("y", onnx.TensorProto.FLOAT, None)],
    )
    return Twin(onnx.helper.make_model(graph))


def every_level() -> np.ndarray:
    """uint8 [1, 16, 32, 3]: each channel has each level twice, in another order."""
    channels = [np.random.default_rng(seed).permutation(np.repeat(np.arange(256), 2)) for seed in range(3)]
    return np.stack(channels, axis=-1).astype(np.uint8).reshape(1, 16, 32, 3)


def in_unit(levels: np.ndarray) -> Any:
    return torch.tensor((levels.transpose(0, 3, 1, 2) / 255).astype(np.float32))


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_whole_levels_reach_the_twin_as_the_pipeline_makes_them(name: str) -> None:
    factory, params = NORMALISATIONS[name]
    row = name.split("-", maxsplit=1)[0]
    pipeline = Pipeline((Step("normalise", row, {**NUMBERS, **params}), Step("layout", "nhwc", {})))
    levels = every_level()
    found = picture_model(echo(), pipeline)(in_unit(levels))
    np.testing.assert_array_equal(found.numpy()[0], factory(**NUMBERS, **params)(levels[0], RNG))


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("misread", [False, True])
def test_layouts_are_those_of_the_pipeline(name: str, misread: bool) -> None:
    levels = every_level()
    found = picture_model(echo(), Pipeline((Step("layout", name, {"misread": misread}),)))(in_unit(levels))
    expected = LAYOUTS[name](misread=misread)(levels[0].astype(np.float32), RNG)
    np.testing.assert_array_equal(found.numpy()[0], expected)


def test_red_and_blue_change_places_in_front_of_the_numbers_of_each_channel() -> None:
    whole = (Step("decode", "pillow", {}), SETTINGS["bgr"], Step("resize", "pillow", {}), Step("crop", "centre", {}))
    pipeline = Pipeline((*whole, Step("normalise", "float32", NUMBERS), Step("layout", "nhwc", {})))
    levels = every_level()
    found = picture_model(echo(), pipeline)(in_unit(levels))
    np.testing.assert_array_equal(found.numpy()[0], float32(**NUMBERS)(bgr()(levels[0], RNG), RNG))


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_gradients_are_those_of_the_formula_and_zero_where_codes_clip(name: str) -> None:
    params = NORMALISATIONS[name][1]
    pipeline = Pipeline((Step("normalise", name.split("-", maxsplit=1)[0], {**NUMBERS, **params}),))
    pictures = in_unit(every_level()).requires_grad_()
    found = picture_model(echo(), pipeline)(pictures)
    found.sum().backward()
    expected = torch.broadcast_to(1 / torch.tensor(NUMBERS["std"]).reshape(1, 3, 1, 1), pictures.shape)
    if name == "quantised-given":  # covers -2.2 to 2.9, not -2.12 to 2.64: white of some channels may clip
        values = (pictures.detach() - torch.tensor(NUMBERS["mean"]).reshape(1, 3, 1, 1)) * expected
        expected = expected * ((torch.round(values / 0.02) + 110 >= 0) & (torch.round(values / 0.02) + 110 <= 255))
    torch.testing.assert_close(pictures.grad, expected, rtol=1e-3, atol=0)


def test_a_network_that_takes_levels_is_given_them(tmp_path: Path) -> None:
    steps = (
        {"stage": "normalise", "name": "float32", "params": NUMBERS},
        {"stage": "layout", "name": "nchw", "params": {}},
    )
    artifact = with_levels(_with_steps(tiny_artifact(tmp_path), steps), tmp_path / "levels.onnx")
    levels = np.random.default_rng(1).integers(0, 256, (4, *artifact.size, 3), dtype=np.uint8)
    pictures = in_unit(levels).requires_grad_()
    found = picture_model(twin_from_artifact(artifact), Pipeline((Step("layout", "nhwc", {}),)))(pictures)
    engine = call(open_cpu(artifact, EngineOptions()), {artifact.input.name: levels}).outputs[artifact.output.name]
    np.testing.assert_allclose(found.detach().numpy(), engine, atol=1e-5)
    found.square().sum().backward()
    assert (pictures.grad != 0).any()


def test_probabilities_become_logarithms_that_stay_finite(tmp_path: Path) -> None:
    model = tiny(Shape(tail=("Softmax",)))
    onnx.save(model, str(tmp_path / "softmax.onnx"))
    artifact = artifact_from_onnx(tmp_path / "softmax.onnx")
    assert artifact.output_kind == "probabilities"
    twin = twin_from_artifact(artifact)
    pictures = torch.rand(3, 3, *artifact.size, generator=torch.Generator().manual_seed(0))
    logits = picture_model(twin, Pipeline((Step("layout", "nchw", {}),)), artifact.output_kind)(pictures)
    assert torch.isfinite(logits).all()
    assert logits.min() < -80  # levels to 255 saturate this network
    torch.testing.assert_close(torch.softmax(logits, 1), twin(pictures * 255))


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ((Step("sensor", "jpeg", {}), Step("layout", "nchw", {})), "sensor.jpeg comes behind it"),
        ((Step("normalise", "table", {}),), "normalise.table has no differentiable form"),
        ((SETTINGS["nv12-bt601-full"], Step("layout", "nchw", {})), r"colour.nv12 has no .*twin has colour\.bgr"),
    ],
)
def test_what_has_no_gradient_is_refused(steps: tuple[Step, ...], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        picture_model(echo(), Pipeline(steps))


def _with_steps(artifact: Artifact, steps: tuple[dict[str, Any], ...]) -> Artifact:
    return replace(artifact, preprocessing=steps)
