"""Opening an ONNX file: what is read, and that every refusal names the fact and the advice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines.artifact import Artifact, ArtifactError, TensorSpec
from engines.onnx_file import InputCodes, artifact_from_onnx, input_codes
from tests.engines.tiny import CLASSES, Shape, tiny, tiny_artifact, with_external_weights, write_tiny

ADVICE = "Export the classifier alone, with one picture in and one row of class scores out"


def test_plain_export_is_read(tmp_path: Path) -> None:
    artifact = tiny_artifact(tmp_path)
    assert artifact.input == TensorSpec("x", "float32", (None, 3, 32, 32))
    assert artifact.output == TensorSpec("y", "float32", (None, CLASSES))
    assert (artifact.format, artifact.output_kind, artifact.quantised) == ("onnx", "logits", False)
    assert artifact.preprocessing is None
    assert artifact.classes is None


def test_fixed_batch_is_read(tmp_path: Path) -> None:
    assert tiny_artifact(tmp_path, Shape(batch=4)).fixed_batch == 4


def test_channels_last_is_read(tmp_path: Path) -> None:
    artifact = tiny_artifact(tmp_path, Shape(nhwc=True))
    assert (artifact.layout, artifact.size) == ("nhwc", (32, 32))


def test_levels_are_an_input_too(tmp_path: Path) -> None:
    artifact = tiny_artifact(tmp_path, Shape(nhwc=True, dtype=TensorProto.UINT8))
    assert (artifact.input.dtype, artifact.layout) == ("uint8", "nhwc")


@pytest.mark.parametrize("nhwc", [False, True])
@pytest.mark.parametrize(
    ("scale", "zero", "read"),
    [
        (np.float32(0.5), np.int8(-3), InputCodes("int8", 0.5, -3)),
        (np.float32(0.25), np.uint8(7), InputCodes("uint8", 0.25, 7)),
        (np.float32([0.5] * 3), np.int8([0] * 3), None),
    ],
)
def test_codes_of_a_quantised_input_are_those_of_its_first_quantizelinear(
    tmp_path: Path, nhwc: bool, scale: object, zero: object, read: InputCodes | None
) -> None:
    model = tiny(Shape(nhwc=nhwc))
    graph = model.graph
    behind = next((node.output[0] for node in graph.node if node.op_type == "Transpose"), "x")
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(each), name) for each, name in ((scale, "s"), (zero, "z"))
    )
    for node in graph.node:
        if node.op_type != "Transpose":
            node.input[:] = ["rounded" if name == behind else name for name in node.input]
    pair = [
        helper.make_node("QuantizeLinear", [behind, "s", "z"], ["codes"], axis=1),
        helper.make_node("DequantizeLinear", ["codes", "s", "z"], ["rounded"], axis=1),
    ]
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes[:nhwc], *pair, *nodes[nhwc:]])
    onnx.save(model, tmp_path / "m.onnx")
    assert input_codes(artifact_from_onnx(tmp_path / "m.onnx")) == read


def test_codes_of_an_input_that_is_not_quantised_are_none(tmp_path: Path) -> None:
    assert input_codes(tiny_artifact(tmp_path)) is None


@pytest.mark.parametrize(
    ("tail", "kind"),
    [
        ((), "logits"),
        (("Softmax",), "probabilities"),
        (("Softmax", "Flatten", "Identity"), "probabilities"),
        (("Softmax", "Relu"), "logits"),
        (("Relu",), "logits"),
    ],
)
def test_output_kind_is_read_from_the_end_of_the_graph(tmp_path: Path, tail: tuple[str, ...], kind: str) -> None:
    assert tiny_artifact(tmp_path, Shape(tail=tail)).output_kind == kind


@pytest.mark.parametrize(
    ("shape", "fact", "advice"),
    [
        (
            Shape(inputs=3),
            "expected one input, float32 or uint8 [N, 3, H, W]; got 3: x float32 [N, 3, 32, 32], x1",
            ADVICE,
        ),
        (Shape(dtype=TensorProto.INT8), "got 1: x int8 [N, 3, 32, 32]", ADVICE),
        (Shape(dtype=TensorProto.FLOAT16), "got 1: x float16 [N, 3, 32, 32]", ADVICE),
        (Shape(channels=1), "got [N, 1, 32, 32]", "expected three colour channels, [N, 3, H, W] or [N, H, W, 3]"),
        (Shape(width=48), "got 32 x 48", "expected a square input"),
        (Shape(height="H"), "the input [N, 3, N, 32]", "has no fixed height and width"),
    ],
    ids=["three inputs", "int8", "float16", "grey", "not square", "free height"],
)
def test_network_that_cannot_be_fed_is_refused(tmp_path: Path, shape: Shape, fact: str, advice: str) -> None:
    path = write_tiny(tmp_path, shape)
    with pytest.raises(ArtifactError) as caught:
        artifact_from_onnx(path)
    assert str(path) in str(caught.value)
    assert fact in str(caught.value)
    assert advice in str(caught.value)


def save(folder: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    model = tiny()
    change(model)
    path = folder / "changed.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_two_outputs_are_refused(tmp_path: Path) -> None:
    path = save(
        tmp_path,
        lambda m: m.graph.output.append(helper.make_tensor_value_info("f", TensorProto.FLOAT, ["N", 8])),
    )
    with pytest.raises(ArtifactError, match=r"expected one output, float32 \[N, classes\]; got 2: y .*, f .*Export"):
        artifact_from_onnx(path)


def test_output_that_is_no_row_of_scores_is_refused(tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.output[0].CopyFrom(helper.make_tensor_value_info("r2", TensorProto.FLOAT, ["N", 8, 16, 16]))

    with pytest.raises(ArtifactError, match=r"expected one output.*got 1: r2 float32 \[N, 8, 16, 16\]"):
        artifact_from_onnx(save(tmp_path, change))


def test_stale_batch_of_the_output_gives_way_to_the_input(tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1

    assert artifact_from_onnx(save(tmp_path, change)).output.shape == (None, CLASSES)


def test_weights_listed_as_inputs_are_no_inputs(tmp_path: Path) -> None:
    """As files of the third version of ONNX's format have them."""
    path = save(
        tmp_path,
        lambda m: m.graph.input.append(helper.make_tensor_value_info("b1", TensorProto.FLOAT, [8])),
    )
    assert artifact_from_onnx(path).input.name == "x"


def test_quantised_file_is_recognised(tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node("QuantizeLinear", ["f", "b1"], ["unused"]))

    assert artifact_from_onnx(save(tmp_path, change)).quantised
    assert not tiny_artifact(tmp_path).quantised


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"there is no model file .*nothing\.onnx"):
        artifact_from_onnx(tmp_path / "nothing.onnx")
    with pytest.raises(ArtifactError, match="there is no model file"):
        artifact_from_onnx(tmp_path)


def test_text_and_half_a_file_are_refused(tmp_path: Path) -> None:
    whole = write_tiny(tmp_path).read_bytes()
    broken = tmp_path / "broken.onnx"
    for content in (b"hello world", whole[: len(whole) // 2]):
        broken.write_bytes(content)
        with pytest.raises(ArtifactError, match=r"broken\.onnx is not an ONNX file: "):
            artifact_from_onnx(broken)


def test_empty_file_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.onnx"
    empty.write_bytes(b"")
    with pytest.raises(ArtifactError, match="expected one input"):
        artifact_from_onnx(empty)


def test_weights_beside_the_file_are_part_of_its_hash(tmp_path: Path) -> None:
    path = with_external_weights(tmp_path, "weights.bin")
    before: Artifact = artifact_from_onnx(path)
    weights = tmp_path / "weights.bin"
    content = bytearray(weights.read_bytes())
    content[0] ^= 1
    weights.write_bytes(bytes(content))
    assert artifact_from_onnx(path).sha256 != before.sha256


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname", "folder/../../weights.bin", ""])
def test_weights_outside_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "weights.bin").write_bytes(bytes(100))
    path = with_external_weights(folder, location)
    with pytest.raises(ArtifactError, match=r"outside the model's folder; export the model again with its weights"):
        artifact_from_onnx(path)


def test_link_that_leads_outside_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = with_external_weights(folder, "weights.bin")
    (folder / "weights.bin").rename(tmp_path / "weights.bin")
    (folder / "weights.bin").symlink_to(tmp_path / "weights.bin")
    with pytest.raises(ArtifactError, match="outside the model's folder"):
        artifact_from_onnx(path)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    path = with_external_weights(tmp_path, "weights.bin")
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ArtifactError, match=r"its weights file 'weights\.bin' is missing; put it into "):
        artifact_from_onnx(path)


@pytest.mark.parametrize("operator", ["QLinearConv", "QGemm", "ConvInteger", "MatMulInteger"])
def test_file_with_integers_inside_its_operators_runs_as_it_is(tmp_path: Path, operator: str) -> None:
    def add(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node(operator, ["x"], ["unused"]))

    artifact = artifact_from_onnx(save(tmp_path, add))
    assert (artifact.quantised, artifact.as_it_is) == (True, True)
    assert not tiny_artifact(tmp_path).as_it_is


@pytest.mark.parametrize(
    ("sidecar", "message"),
    [
        ({"sha256": None}, "sha256 must be 64 hexadecimal digits; got null"),
        ({"classes": "abcdefghij"}, "classes must be a list of different names"),
        ({"classes": ["a", "a"]}, "classes must be a list of different names"),
        ({"preprocessing": {"a": 1}}, "preprocessing must be a list of steps"),
        ({"made_by": None}, "made_by must be an object"),
        ({"format": "tflight"}, "format must be one of onnx, plan, tflite; got"),
    ],
)
def test_sidecar_value_of_the_wrong_kind_is_named(tmp_path: Path, sidecar: dict[str, object], message: str) -> None:
    path = write_tiny(tmp_path)
    path.with_name(path.name + ".json").write_text(json.dumps(sidecar))
    with pytest.raises(ArtifactError, match=message):
        artifact_from_onnx(path)
