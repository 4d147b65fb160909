"""Variants of operators, against NumPy's obvious loops and against the declared normalisation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from engines.artifact import Artifact
from engines.onnx_file import artifact_from_onnx
from exporters import VARIANTS
from exporters.base import ExportError
from exporters.operators import ceil_mode, folded_mean, include_padding, upsampling, write_variant
from harness.cli import main
from harness.registry import VARIANT_TABLE
from noise.presets import pipeline_from_preset
from tests.engines.tiny import write_tiny

Array = npt.NDArray[np.float32]
SIZE = 8
PICTURE: Array = np.random.default_rng(0).normal(0, 1, (1, 3, SIZE, SIZE)).astype(np.float32)
DECLARED = pipeline_from_preset("imagenet", size=SIZE).describe()


def network(folder: Path, *nodes: onnx.NodeProto, weights: tuple[onnx.TensorProto, ...] = ()) -> Artifact:
    """Nodes from ``x`` to ``y``, then the mean over the plane as the scores of three classes."""
    tail = [helper.make_node("GlobalAveragePool", ["y"], ["m"]), helper.make_node("Flatten", ["m"], ["scores"])]
    graph = helper.make_graph(
        [*nodes, *tail],
        "g",
        [helper.make_tensor_value_info("x", 1, ["N", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("scores", 1, ["N", 3])],
        list(weights),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path = folder / "m.onnx"
    onnx.save(model, path)
    (folder / "m.onnx.json").write_text(json.dumps({"preprocessing": DECLARED}))
    return artifact_from_onnx(path)


def answer(path: Path, picture: Array = PICTURE) -> Array:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": picture})[0])


def pooled(kind: str, *, size: int, pad: int, count_padding: bool) -> Array:
    """Windows of 3 x 3 at a distance of 2, then the mean over the plane: the obvious loops."""
    planes = PICTURE[0].astype(np.float64)
    result = np.zeros((3, size, size))
    for channel, row, column in np.ndindex(*result.shape):
        values, cells = [], 0
        for y, x in np.ndindex(3, 3):
            top, left = row * 2 + y - pad, column * 2 + x - pad
            inside = 0 <= top < SIZE and 0 <= left < SIZE
            # What lies beyond the padding, where ceil lets a window reach, is never counted.
            cells += inside or (-pad <= top < SIZE + pad and -pad <= left < SIZE + pad and count_padding)
            if inside:
                values.append(planes[channel, top, left])
        result[channel, row, column] = max(values) if kind == "MaxPool" else sum(values) / cells
    return result.mean(axis=(1, 2)).astype(np.float32)


def test_ceil_mode_adds_the_window_that_reaches_over_the_border(tmp_path: Path) -> None:
    given = network(tmp_path, helper.make_node("MaxPool", ["x"], ["y"], "pool", kernel_shape=[3, 3], strides=[2, 2]))
    assert np.allclose(answer(given.path), pooled("MaxPool", size=3, pad=0, count_padding=False))
    written = write_variant(given, "ceil-mode", ceil_mode, tmp_path / "ceil.onnx")
    assert np.allclose(answer(written.path), pooled("MaxPool", size=4, pad=0, count_padding=False))
    back = write_variant(written, "ceil-mode", ceil_mode, tmp_path / "floor.onnx")
    assert np.array_equal(answer(back.path), answer(given.path))


def test_padding_counts_in_the_mean_where_it_did_not(tmp_path: Path) -> None:
    node = helper.make_node("AveragePool", ["x"], ["y"], "pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    given = network(tmp_path, node)
    assert np.allclose(answer(given.path), pooled("AveragePool", size=4, pad=1, count_padding=False), atol=1e-6)
    written = write_variant(given, "include-padding", include_padding, tmp_path / "with.onnx")
    assert np.allclose(answer(written.path), pooled("AveragePool", size=4, pad=1, count_padding=True), atol=1e-6)


def test_upsampling_turns_nearest_into_linear_and_back(tmp_path: Path) -> None:
    scales = numpy_helper.from_array(np.array([1, 1, 2.5, 2.5], np.float32), "scales")
    how = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    nodes = (
        helper.make_node("Resize", ["x", "", "scales"], ["big"], "up", **how),
        helper.make_node("Mul", ["big", "big"], ["y"]),  # a mean of squares tells the two apart
    )
    given = network(tmp_path, *nodes, weights=(scales,))
    written = write_variant(given, "upsampling", upsampling, tmp_path / "linear.onnx")
    (resize,) = [node for node in onnx.load(written.path).graph.node if node.op_type == "Resize"]
    assert {each.name: helper.get_attribute_value(each) for each in resize.attribute}["mode"] == b"linear"
    assert not np.allclose(answer(written.path), answer(given.path), rtol=0.05)
    back = write_variant(written, "upsampling", upsampling, tmp_path / "nearest.onnx")
    assert np.array_equal(answer(back.path), answer(given.path))


MODES = {
    "nearest": {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"},
    "bilinear": {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
    "bicubic": {"mode": "cubic", "coordinate_transformation_mode": "half_pixel", "cubic_coeff_a": -0.75},
    "align_corners": {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
}


@pytest.mark.parametrize(
    ("given", "becomes"), [(name, "nearest" if name != "nearest" else "bilinear") for name in MODES]
)
@pytest.mark.parametrize("factor", [2.0, 2.5, 3.0])
def test_upsampling_becomes_the_other_mode_of_pytorch(tmp_path: Path, given: str, becomes: str, factor: float) -> None:
    """PyTorch exports the first of ``MODES`` for nearest and the second for bilinear; its own kernels are the judge."""
    torch = pytest.importorskip("torch")
    scales = numpy_helper.from_array(np.array([1, 1, factor, factor], np.float32), "scales")
    ramp = np.arange(int(SIZE * factor) ** 2, dtype=np.float32).reshape(int(SIZE * factor), -1)
    nodes = (
        helper.make_node("Resize", ["x", "", "scales"], ["big"], "up", **MODES[given]),
        helper.make_node("Mul", ["big", "ramp"], ["y"]),  # a weighted mean tells where every pixel went
    )
    artifact = network(tmp_path, *nodes, weights=(scales, numpy_helper.from_array(ramp, "ramp")))
    written = write_variant(artifact, "upsampling", upsampling, tmp_path / "other.onnx")
    corners = False if becomes == "bilinear" else None
    planes = torch.from_numpy(PICTURE)
    expected = torch.nn.functional.interpolate(planes, scale_factor=factor, mode=becomes, align_corners=corners)
    assert np.allclose(answer(written.path), (expected.numpy() * ramp).mean(axis=(2, 3)), rtol=1e-4, atol=1e-3)


def test_upsampling_without_a_choice_of_coordinates_keeps_them(tmp_path: Path) -> None:
    scales = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")
    given = network(tmp_path, helper.make_node("Resize", ["x", "scales"], ["y"], "up"), weights=(scales,))
    model = onnx.load(given.path)
    model.opset_import[0].version = 10
    upsampling(model, None)
    (resize,) = [node for node in model.graph.node if node.op_type == "Resize"]
    assert [each.name for each in resize.attribute] == ["mode"]


@pytest.mark.parametrize(
    "pooling",
    [
        {"kernel_shape": [2, 2], "strides": [2, 2]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    ],
    ids=["fits", "auto_pad"],
)
def test_ceil_mode_leaves_a_pooling_of_which_nothing_changes(tmp_path: Path, pooling: dict[str, object]) -> None:
    given = network(tmp_path, helper.make_node("MaxPool", ["x"], ["y"], "pool", **pooling))
    with pytest.raises(ExportError, match="has nothing that ceil-mode would change"):
        write_variant(given, "ceil-mode", ceil_mode, tmp_path / "out.onnx")


def test_ceil_mode_names_the_nodes_that_change_and_infers_shapes_anew(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MaxPool", ["x"], ["p"], "fits", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("MaxPool", ["p"], ["y"], "reaches", kernel_shape=[3, 3], strides=[2, 2]),
    ]
    given = network(tmp_path, *nodes)
    model = onnx.load(given.path)
    model.graph.value_info.append(helper.make_tensor_value_info("y", 1, ["N", 3, 1, 1]))
    onnx.save(model, given.path)
    written = write_variant(artifact_from_onnx(given.path), "ceil-mode", ceil_mode, tmp_path / "ceil.onnx")
    assert written.made_by["nodes"] == ["reaches"]
    assert [each.name for each in onnx.load(written.path).graph.value_info] == []


def test_padding_by_auto_pad_counts_too(tmp_path: Path) -> None:
    node = helper.make_node("AveragePool", ["x"], ["y"], "pool", kernel_shape=[3, 3], auto_pad="SAME_UPPER")
    given = network(tmp_path, node)
    written = write_variant(given, "include-padding", include_padding, tmp_path / "with.onnx")
    assert written.made_by["nodes"] == ["pool"]
    assert not np.allclose(answer(written.path), answer(given.path), atol=1e-3)


def convolution(folder: Path, *, bias: str, constant: str = "") -> Artifact:
    """A 1 x 1 convolution whose weight "w" and bias are initializers, but for the one that a Constant node makes."""
    tensors = {
        "w": numpy_helper.from_array(np.full((3, 3, 1, 1), 0.5, np.float32), "w"),
        "b": numpy_helper.from_array(np.arange(3, dtype=np.float32), "b"),
    }
    nodes = [helper.make_node("Constant", [], [constant], value=tensors.pop(constant))] if constant else []
    if not bias:
        tensors.pop("b", None)
    conv = helper.make_node("Conv", ["x", "w", bias], ["y"], "conv")
    return network(folder, *nodes, conv, weights=tuple(tensors.values()))


@pytest.mark.parametrize("constant", ["w", "b"])
def test_folding_into_what_a_node_makes_is_refused_by_name(tmp_path: Path, constant: str) -> None:
    given = convolution(tmp_path, bias="b", constant=constant)
    with pytest.raises(ExportError, match=f"weights and bias that are initializers; '{constant}' of conv is none"):
        write_variant(given, "folded-mean", folded_mean, tmp_path / "out.onnx")


@pytest.mark.parametrize("bias", ["b", ""], ids=["bias", "left out"])
def test_folding_leaves_no_weight_behind_that_nothing_reads(tmp_path: Path, bias: str) -> None:
    written = write_variant(convolution(tmp_path, bias=bias), "folded-mean", folded_mean, tmp_path / "out.onnx")
    graph = onnx.load(written.path).graph
    (conv,) = [node for node in graph.node if node.op_type == "Conv"]
    assert {each.name for each in graph.initializer} == set(conv.input[1:])


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("pad", [0, 1])
def test_folded_mean_is_exact_inside_and_black_in_the_padding(tmp_path: Path, bias: bool, pad: int) -> None:
    rng = np.random.default_rng(1)
    weights = [numpy_helper.from_array(rng.normal(0, 0.3, (3, 3, 3, 3)).astype(np.float32), "w")]
    weights += [numpy_helper.from_array(rng.normal(0, 1, 3).astype(np.float32), "b")] if bias else []
    names = ["x", *(each.name for each in weights)]
    given = network(tmp_path, helper.make_node("Conv", names, ["y"], "conv", pads=[pad] * 4), weights=tuple(weights))
    written = write_variant(given, "folded-mean", folded_mean, tmp_path / "folded.onnx")
    levels = rng.integers(0, 256, (1, 3, SIZE, SIZE)).astype(np.float32)
    params = next(step["params"] for step in DECLARED if step["stage"] == "normalise")
    mean, std = (np.array(params[key], np.float32)[None, :, None, None] for key in ("mean", "std"))
    normalised = (levels / params["scale"] - mean) / std
    assert np.allclose(answer(written.path, levels), answer(given.path, normalised), atol=1e-4) == (pad == 0)
    borders = ((0, 0), (0, 0), (pad, pad), (pad, pad))
    black = np.where(np.pad(np.ones_like(levels), borders) > 0, np.pad(normalised, borders), -mean / std)
    windows = np.lib.stride_tricks.sliding_window_view(black[0], (3, 3), axis=(1, 2))
    planes = np.einsum("cyxhw,ochw->oyx", windows, numpy_helper.to_array(weights[0]))
    offset = numpy_helper.to_array(weights[1]) if bias else 0
    assert np.allclose(answer(written.path, levels), planes.mean(axis=(1, 2)) + offset, atol=1e-4)
    assert written.preprocessing is not None
    assert [step["params"] for step in written.preprocessing if step["stage"] == "normalise"] == [
        {"scale": 1.0, "mean": [0.0] * 3, "std": [1.0] * 3}
    ]


def test_sidecar_says_what_was_changed_and_keeps_the_rest(tmp_path: Path) -> None:
    given = network(tmp_path, helper.make_node("MaxPool", ["x"], ["y"], "pool", kernel_shape=[3, 3], strides=[2, 2]))
    write_variant(given, "ceil-mode", ceil_mode, tmp_path / "ceil.onnx")
    read = artifact_from_onnx(tmp_path / "ceil.onnx")
    assert read.made_by == {
        "operator_noise": "ceil-mode",
        "nodes": ["pool"],
        "parent": "m.onnx",
        "parent_sha256": given.sha256,
    }
    assert read.preprocessing == given.preprocessing
    assert read.sha256 != given.sha256


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "folded-mean"])
def test_network_without_such_an_operator_is_refused(tmp_path: Path, variant: str) -> None:
    given = artifact_from_onnx(write_tiny(tmp_path))
    with pytest.raises(ExportError, match=f"has nothing that {variant} would change"):
        write_variant(given, variant, VARIANT_TABLE.resolve(variant), tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_size_that_no_longer_fits_is_refused_with_the_reason(tmp_path: Path) -> None:
    nodes = (
        helper.make_node("MaxPool", ["x"], ["p"], "pool", kernel_shape=[3, 3], strides=[2, 2]),
        helper.make_node("Add", ["p", "plane"], ["y"]),
    )
    plane = numpy_helper.from_array(np.zeros((1, 3, 3, 3), np.float32), "plane")
    given = network(tmp_path, *nodes, weights=(plane,))
    with pytest.raises(ExportError, match="does not fit together under ceil-mode"):
        write_variant(given, "ceil-mode", ceil_mode, tmp_path / "out.onnx")


def test_folding_without_a_declared_normalisation_or_a_convolution_is_refused(tmp_path: Path) -> None:
    given = network(tmp_path, helper.make_node("MaxPool", ["x"], ["y"], "pool", kernel_shape=[3, 3], strides=[2, 2]))
    with pytest.raises(ExportError, match="needs one Conv with constant weights that reads the input; got MaxPool"):
        write_variant(given, "folded-mean", folded_mean, tmp_path / "out.onnx")
    bare = artifact_from_onnx(write_tiny(tmp_path))
    with pytest.raises(ExportError, match="the normalisation that the model's sidecar declares"):
        write_variant(bare, "folded-mean", folded_mean, tmp_path / "out.onnx")


def test_command_writes_the_variant_and_refuses_to_write_over_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = network(tmp_path, helper.make_node("MaxPool", ["x"], ["y"], "pool", kernel_shape=[3, 3], strides=[2, 2]))
    command = ["rewrite", str(given.path), "--operator", "ceil-mode", "-o"]
    assert main([*command, str(tmp_path / "ceil.onnx")]) == 0
    assert "1 nodes of m.onnx rewritten: pool" in capsys.readouterr().out
    assert main([*command, str(given.path)]) == 2
    assert main(["rewrite", str(given.path), "--operator", "ceilmode", "-o", str(tmp_path / "o.onnx")]) == 2
    assert "did you mean 'ceil-mode'" in capsys.readouterr().err
