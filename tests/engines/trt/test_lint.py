"""The Q/DQ linter: every rule has a graph that violates it and nothing else; what we export is clean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from engines.artifact import Artifact, ArtifactError
from engines.lint import ERROR, WARNING, Finding
from engines.onnx_file import artifact_from_onnx
from engines.trt.lint import RULES, findings_from_onnx
from exporters.base import Calibration, Quantisation, Source
from exporters.calibration import calibrate
from exporters.int4 import int4_weights
from exporters.int4_options import Int4Options
from exporters.qdq import onnx_qdq
from exporters.ranges.minmax import MinMax
from harness.cli import main
from harness.exporting import quantisation_target
from harness.lint_report import lint_report
from tests.engines.tiny import Shape, pictures, tiny_artifact
from tests.engines.trt.draft import CHANNELS, Draft


def sound() -> Draft:
    """What TensorRT wants: Q/DQ on inputs, weights and residuals, the sum behind its layer."""
    draft = Draft()
    draft.conv(draft.pair("x", "x_q"), "conv1")
    residual = draft.pair(draft.node("Relu", ["conv1"], "relu1"), "relu1_q")
    draft.conv(residual, "conv2")
    draft.node("Relu", [draft.node("Add", ["conv2", residual], "sum")], "relu2")
    return draft


def with_qoperator() -> Draft:
    draft = Draft()
    inputs = [draft.constant("scale", np.array(0.1, np.float32)), draft.constant("zero", np.array(0, np.int8))]
    draft.node("QuantizeLinear", ["x", *inputs], "xq")
    weight = draft.constant("w", np.ones((CHANNELS, CHANNELS, 1, 1), np.int8))
    draft.node("QLinearConv", ["xq", *inputs, weight, *inputs, *inputs], "conv")
    draft.node("DequantizeLinear", ["conv", *inputs], "y")
    return draft


def with_foreign_operator() -> Draft:
    draft = Draft()
    draft.node("Gelu", ["x"], "gelu", domain="com.microsoft")
    return draft


def with_unsigned_activation() -> Draft:
    draft = Draft()
    draft.conv(draft.pair("x", "x_q", zero=np.array(128, np.uint8)), "conv")
    return draft


def with_unsigned_by_default() -> Draft:
    draft = Draft()
    draft.conv(draft.pair("x", "x_q", zero=None), "conv")
    return draft


def with_wide_activation() -> Draft:
    draft = Draft()
    draft.conv(draft.pair("x", "x_q", zero=np.array(0, np.int16)), "conv")
    return draft


def with_integer_bias() -> Draft:
    draft = Draft()
    inputs = [
        draft.constant("bias", np.ones(CHANNELS, np.int32)),
        draft.constant("bias_scale", np.array(0.01, np.float32)),
        draft.constant("bias_zero", np.array(0, np.int32)),
    ]
    bias = draft.node("DequantizeLinear", inputs, "bias_dq")
    draft.conv(draft.pair("x", "x_q"), "conv", bias=bias)
    return draft


def with_zero_point() -> Draft:
    draft = Draft()
    draft.conv(draft.pair("x", "x_q", zero=np.array(-3, np.int8)), "conv")
    return draft


def without_zero_point() -> Draft:
    """A DequantizeLinear of two inputs, which the operator allows and TensorRT 8.6 does not."""
    draft = sound()
    dequantise = next(node for node in draft.nodes if node.op_type == "DequantizeLinear")
    del dequantise.input[2]
    return draft


def with_clipped_integers() -> Draft:
    """As Brevitas exports integers of fewer than 8 bits, and weights without the lowest code."""
    draft = Draft()
    pair = [draft.constant("scale", np.array(0.1, np.float32)), draft.constant("zero", np.array(0, np.int8))]
    limits = [draft.constant("low", np.array(-8, np.int8)), draft.constant("high", np.array(7, np.int8))]
    draft.node("QuantizeLinear", ["x", *pair], "q")
    draft.node("Clip", ["q", *limits], "clip")
    draft.conv(draft.node("DequantizeLinear", ["clip", *pair], "dq"), "conv")
    return draft


def with_zero_scale() -> Draft:
    draft = Draft()
    draft.conv(draft.pair("x", "x_q", scale=np.array(0.0, np.float32)), "conv")
    return draft


def with_endless_scale() -> Draft:
    draft = Draft()
    draft.conv(draft.pair("x", "x_q", scale=np.array(np.inf, np.float32)), "conv")
    return draft


def with_computed_scale() -> Draft:
    draft = Draft()
    zero = draft.constant("zero", np.array(0, np.int8))
    scale = draft.node("ReduceMax", ["x"], "scale", keepdims=0)
    draft.node("QuantizeLinear", ["x", scale, zero], "q")
    draft.conv(draft.node("DequantizeLinear", ["q", scale, zero], "dq"), "conv")
    return draft


def with_activation_per_channel() -> Draft:
    draft = Draft()
    scales, zeros = np.full(CHANNELS, 0.1, np.float32), np.zeros(CHANNELS, np.int8)
    draft.conv(draft.pair("x", "x_q", scales, zeros), "conv")
    return draft


def blocked(depth: int, columns: int, block: int, axis: int = 0) -> Callable[[], Draft]:
    """A MatMul with a weight [depth, columns] in INT4 blocks."""

    def draft() -> Draft:
        made = Draft()
        shape = [depth, columns]
        stored = helper.make_tensor("w", TensorProto.INT4, shape, b"\0" * ((depth * columns + 1) // 2), raw=True)
        made.tensors.append(stored)
        shape[axis] = -(-shape[axis] // block) if block else 1
        scales = made.constant("w_scales", np.full(shape if block else (), 0.1, np.float32))
        sizes = {"axis": axis, "block_size": block} if block else {}
        weight = made.node("DequantizeLinear", ["w", scales], "w_dq", **sizes)
        made.node("MatMul", ["x", weight], "product")
        return made

    return draft


def blocked_on_an_early_dimension() -> Draft:
    draft = Draft()
    stored = helper.make_tensor("w", TensorProto.INT4, [64, 8, 4], b"\0" * (64 * 8 * 4 // 2), raw=True)
    draft.tensors.append(stored)
    scales = draft.constant("w_scales", np.full((1, 8, 4), 0.1, np.float32))
    weight = draft.node("DequantizeLinear", ["w", scales], "w_dq", axis=0, block_size=64)
    draft.node("MatMul", ["x", weight], "product")
    return draft


def with_int4_activation() -> Draft:
    draft = Draft()
    zero = helper.make_tensor("zero", TensorProto.INT4, [], b"\0", raw=True)
    draft.tensors.append(zero)
    scale = draft.constant("scale", np.array(0.1, np.float32))
    draft.node("QuantizeLinear", ["x", scale, "zero"], "q")
    draft.conv(draft.node("DequantizeLinear", ["q", scale, "zero"], "dq"), "conv")
    return draft


def with_float_weight() -> Draft:
    draft = Draft()
    weight = draft.constant("w", np.ones((CHANNELS, CHANNELS, 1, 1), np.float32))
    draft.conv(draft.pair("x", "x_q"), "conv", weight=weight)
    return draft


def with_float_activation() -> Draft:
    draft = Draft()
    draft.conv("x", "conv")
    return draft


def with_stored_weight() -> Draft:
    draft = Draft()
    inputs = [
        draft.constant("w", np.ones((CHANNELS, CHANNELS, 1, 1), np.int8)),
        draft.constant("w_scale", np.array(0.1, np.float32)),
        draft.constant("w_zero", np.array(0, np.int8)),
    ]
    weight = draft.node("DequantizeLinear", inputs, "w_dq")
    draft.conv(draft.pair("x", "x_q"), "conv", weight=weight)
    return draft


def behind_conv(operator: str, **attributes: Any) -> Callable[[], Draft]:
    """Q/DQ between a convolution and what TensorRT would fuse into it."""

    def draft() -> Draft:
        made = Draft()
        made.conv(made.pair("x", "x_q"), "conv")
        inputs = [made.pair("conv", "conv_q")]
        if operator == "BatchNormalization":
            inputs += [made.constant(f"bn{index}", np.ones(CHANNELS, np.float32)) for index in range(4)]
        made.node(operator, inputs, "behind", **attributes)
        return made

    return draft


def with_two_pairs() -> Draft:
    draft = Draft()
    draft.conv(draft.pair(draft.pair("x", "x_q"), "again"), "conv")
    return draft


def with_float_residual() -> Draft:
    draft = Draft()
    draft.conv(draft.pair("x", "x_q"), "conv1")
    draft.node("Relu", ["conv1"], "relu1")
    draft.conv(draft.pair("relu1", "relu1_q"), "conv2")
    draft.node("Add", ["conv2", "relu1"], "sum")
    return draft


def with_two_float_branches() -> Draft:
    draft = Draft()
    source = draft.pair("x", "x_q")
    draft.node("Add", [draft.conv(source, "conv1"), draft.conv(source, "conv2")], "sum")
    return draft


def with_pairs_on_both_sides() -> Draft:
    draft = Draft()
    source = draft.pair("x", "x_q")
    draft.conv(source, "conv1")
    draft.node("Add", [draft.pair("conv1", "conv1_q"), source], "sum")
    return draft


@dataclass(frozen=True)
class Case:
    """A graph, the one rule that it violates, the node, and a word of the message."""

    rule: str
    draft: Callable[[], Draft]
    node: str
    says: str


CASES = (
    Case("no-qoperator", with_qoperator, "conv", "QLinearConv"),
    Case("standard-operators", with_foreign_operator, "gelu", "Gelu of com.microsoft"),
    Case("signed", with_unsigned_activation, "x_q_q", "got uint8"),
    Case("signed", with_unsigned_by_default, "x_q_q", "got uint8"),
    Case("element-type", with_wide_activation, "x_q_q", "got int16"),
    Case("element-type", with_integer_bias, "bias_dq", "got int32"),
    Case("zero-point", with_zero_point, "x_q_q", "got -3"),
    Case("zero-point", without_zero_point, "x_q", "got none"),
    Case("scale", with_zero_scale, "x_q_q", "got 0.0"),
    Case("scale", with_endless_scale, "x_q_q", "got inf"),
    Case("scale", with_computed_scale, "q", "computed"),
    Case("per-channel", with_activation_per_channel, "x_q_q", "got 4"),
    Case("int4-blocks", blocked(64, 8, 32), "w_dq", "got 32"),
    Case("int4-blocks", blocked(64, 8, 0), "w_dq", "no blocks"),
    Case("int4-blocks", blocked(96, 8, 64), "w_dq", "got 96"),
    Case("int4-blocks", blocked(64, 7, 64), "w_dq", "got 7"),
    Case("int4-blocks", blocked_on_an_early_dimension, "w_dq", "got dimension 0"),
    Case("int4-blocks", with_int4_activation, "q", "got an activation"),
    Case("both-inputs", with_float_weight, "conv", "its weight is float"),
    Case("both-inputs", with_float_activation, "conv", "its activation is float"),
    Case("weight-pair", with_stored_weight, "w_dq", "stored INT8"),
    Case("clip", with_clipped_integers, "clip", "got a Clip of them"),
    Case("fusion", behind_conv("Relu"), "conv_q", "Relu straight behind conv"),
    Case("fusion", behind_conv("BatchNormalization"), "conv_q", "BatchNormalization straight behind conv"),
    Case("one-pair", with_two_pairs, "again_q", "second one behind x_q"),
    Case("residual", with_float_residual, "sum", "residual 'relu1'"),
    Case("residual", with_two_float_branches, "sum", "got float"),
    Case("sum", with_pairs_on_both_sides, "sum", "conv1 straight in front"),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule}:{case.says}")
def test_a_violation_is_found_by_its_rule_alone(case: Case, tmp_path: Path) -> None:
    findings = findings_from_onnx(case.draft().write(tmp_path))
    assert {finding.rule for finding in findings} == {case.rule}
    assert findings[0].node == case.node
    assert case.says in findings[0].message
    assert findings[0].mend == RULES[case.rule].mend


def test_every_rule_has_a_case() -> None:
    assert {case.rule for case in CASES} == set(RULES)


def test_a_sound_graph_has_no_findings(tmp_path: Path) -> None:
    assert findings_from_onnx(sound().write(tmp_path)) == ()


def test_what_tensorrt_refuses_is_an_error_and_what_it_runs_in_float_a_warning() -> None:
    assert {name for name, rule in RULES.items() if rule.severity == WARNING} == {
        "both-inputs",
        "weight-pair",
        "fusion",
        "one-pair",
        "residual",
        "sum",
    }
    assert all(rule.severity in (ERROR, WARNING) for rule in RULES.values())


def test_constants_in_nodes_count_as_constants(tmp_path: Path) -> None:
    draft = sound()
    for tensor in draft.tensors:
        draft.nodes.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    draft.tensors.clear()
    assert findings_from_onnx(draft.write(tmp_path)) == ()


def test_a_file_that_is_not_onnx_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.onnx"
    path.write_text("not a model")
    with pytest.raises(ArtifactError, match="is not an ONNX file"):
        findings_from_onnx(path)
    with pytest.raises(ArtifactError, match="there is no model file"):
        findings_from_onnx(tmp_path / "none.onnx")


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return tiny_artifact(tmp_path, Shape(batch_norm=True))


@pytest.fixture
def calibration(artifact: Artifact) -> Calibration:
    inputs = (picture[np.newaxis] for picture in pictures(12, seed=3))
    return calibrate(artifact, inputs, Source("minmax", {"a": "its content"}, "steps", {"clean": "steps"}), MinMax)


def quantised(artifact: Artifact, calibration: Calibration, target: str) -> Path:
    path = artifact.path.with_name(f"{target}.onnx")
    return onnx_qdq(artifact, calibration, Quantisation(target), quantisation_target(target), path).path


@pytest.mark.parametrize("target", ["tensorrt", "ort-cuda"])
def test_what_we_export_for_tensorrt_is_clean(target: str, artifact: Artifact, calibration: Calibration) -> None:
    assert findings_from_onnx(quantised(artifact, calibration, target)) == ()


def test_int4_for_tensorrt_is_clean(tmp_path: Path) -> None:
    path = tmp_path / "wide.onnx"
    weight = np.random.default_rng(0).normal(size=(128, 6)).astype(np.float32)
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("ReduceMean", ["x", "axes"], ["means"], "means", keepdims=0),
                helper.make_node("MatMul", ["means", "spread"], ["features"], "spread_out"),
                helper.make_node("Relu", ["features"], ["active"], "relu"),
                helper.make_node("MatMul", ["active", "w"], ["y"], "fc"),
            ],
            "wide",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 6])],
            [
                numpy_helper.from_array(np.int64([2, 3]), "axes"),
                numpy_helper.from_array(np.ones((3, 128), np.float32), "spread"),
                numpy_helper.from_array(weight, "w"),
            ],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )
    onnx.save(model, str(path))
    made = int4_weights(artifact_from_onnx(path), "tensorrt", Int4Options(block=64), tmp_path / "int4.onnx")
    assert made.made_by["int4_layers"] == ["fc"]
    assert findings_from_onnx(made.path) == ()


def test_a_file_for_onnx_runtime_on_the_cpu_is_not(artifact: Artifact, calibration: Calibration) -> None:
    counts = Counter(finding.rule for finding in findings_from_onnx(quantised(artifact, calibration, "ort-cpu")))
    assert counts["signed"] > 0
    assert counts["element-type"] == 3, "one integer bias for each of the three layers"
    assert counts["weight-pair"] == 3, "and one stored weight"


def test_inspect_lists_findings_and_exits_with_1_where_the_file_would_be_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = with_zero_point().write(tmp_path)
    assert main(["inspect", str(path), "--for", "tensorrt"]) == 1
    shown = capsys.readouterr().out
    assert "2 findings, 2 of them errors" in shown, "one for each half of the pair"
    for word in ("zero-point", "x_q_q", "--for tensorrt", "would refuse"):
        assert word in shown


def test_inspect_exits_with_0_for_warnings_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = with_float_residual().write(tmp_path)
    assert main(["inspect", str(path), "--for", "tensorrt"]) == 0
    assert "run part of it in float" in capsys.readouterr().out


def test_inspect_for_a_target_without_rules_names_those_that_have_some(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(tmp_path / "m.onnx"), "--for", "tensorflow"]) == 2
    assert "did you mean 'tensorrt'?" in capsys.readouterr().err


def test_a_clean_file_is_said_to_be_clean() -> None:
    console = Console(width=100, record=True)
    console.print(lint_report(Path("m.onnx"), "tensorrt", ()))
    assert "nothing in it is known not to suit tensorrt" in console.export_text()


def test_a_rule_that_every_node_violates_is_said_in_a_few_lines() -> None:
    findings = [Finding("element-type", "error", f"node {number}", "got int32", "quantise") for number in range(245)]
    console = Console(width=100, record=True)
    console.print(lint_report(Path("m.onnx"), "tensorrt", findings))
    said = console.export_text().splitlines()
    assert len(said) < 15
    assert "245 findings" in said[0]
    assert "  and 240 more nodes" in [line.rstrip() for line in said]


FLOAT_MODELS = ("mobilenetv1_0.25_bn", "mobilenetv2_tf", "resnet18", "squeezenet1.1")


@pytest.mark.parametrize("name", FLOAT_MODELS)
def test_real_networks_quantised_for_tensorrt_are_clean(name: str, real_data: Path, tmp_path: Path) -> None:
    artifact = artifact_from_onnx(real_data / "models" / f"{name}.onnx")
    shape = [size or 1 for size in artifact.input.shape]
    inputs = (np.random.default_rng(seed).standard_normal(shape, dtype=np.float32) for seed in range(2))
    source = Source("minmax", {"a": "its content"}, "steps", {"clean": "steps"})
    calibration = calibrate(artifact, inputs, source, MinMax)
    target = quantisation_target("tensorrt")
    made = onnx_qdq(artifact, calibration, Quantisation("tensorrt"), target, tmp_path / "m.onnx")
    assert findings_from_onnx(made.path) == ()


def test_a_real_file_of_another_tool_is_told_what_tensorrt_would_refuse(real_data: Path) -> None:
    counts = Counter(each.rule for each in findings_from_onnx(real_data / "models" / "mobilenetv2_tf.ptq.qdq.onnx"))
    assert counts["element-type"] == 53, "its integer biases"
    assert counts["weight-pair"] == 53, "its stored weights"
    assert counts["zero-point"] > 100
    assert counts["signed"] == 1, "its input in uint8"
