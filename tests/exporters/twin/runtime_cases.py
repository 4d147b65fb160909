"""Cases that ONNX's own tests lack: operators of ONNX Runtime, and older meanings of ONNX's. ONNX Runtime says what is
expected."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from exporters.nbits import packed
from tests.exporters.twin.onnx_cases import Case

Array = np.ndarray

CONTRIB = "com.microsoft"


class Form(NamedTuple):
    """A node of a case.

    Args:
        opset: of its domain.
        inputs: shapes of float inputs, drawn at random, or arrays, which are constants; ``None`` for one left out.
        attributes: of the node.
        outputs: how many.
        positive: whether the inputs are above zero.
    """

    opset: int
    inputs: Sequence[tuple[int, ...] | Array | None]
    attributes: Mapping[str, Any] = {}
    outputs: int = 1
    positive: bool = False


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


def floats(*values: float) -> Array:
    return np.array(values, np.float32)


def codes(*shape: int, dtype: Any = np.uint8) -> Array:
    limits = np.iinfo(dtype)
    return np.random.default_rng(7).integers(limits.min, limits.max + 1, shape).astype(dtype)


PLANES = (2, 4, 5, 7)
BATCH_NORM = ((4,), (4,), (4,), np.array([0.5, 1, 2, 3], np.float32))

FORMS: dict[str, dict[str, Form]] = {
    "Conv": {
        "same_upper": Form(11, [PLANES, (6, 4, 3, 2)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        "same_lower": Form(11, [PLANES, (6, 4, 2, 2)], {"auto_pad": "SAME_LOWER"}),
        "groups": Form(11, [PLANES, (8, 2, 3, 3), (8,)], {"group": 2, "pads": [1, 0, 2, 1]}),
        "dilated": Form(11, [PLANES, (4, 1, 3, 3)], {"group": 4, "dilations": [2, 3], "pads": [2, 3, 2, 3]}),
        "line": Form(11, [(2, 4, 9), (6, 4, 3)], {"strides": [2]}),
    },
    "ConvTranspose": {
        "groups": Form(11, [PLANES, (4, 3, 3, 3), (6,)], {"group": 2, "strides": [2, 2], "pads": [1] * 4})
    },
    "MaxPool": {
        "ceil": Form(12, [PLANES], {"kernel_shape": [2, 2], "strides": [3, 2], "ceil_mode": 1}),
        "ceil_padded": Form(12, [PLANES], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4, "ceil_mode": 1}),
    },
    "AveragePool": {
        "ceil": Form(11, [PLANES], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
        "padded": Form(11, [PLANES], {"kernel_shape": [3, 3], "pads": [1, 0, 1, 1]}),
        "include": Form(11, [PLANES], {"kernel_shape": [3, 3], "pads": [1, 0, 1, 1], "count_include_pad": 1}),
    },
    "BatchNormalization": {"opset_9": Form(9, [PLANES, *BATCH_NORM]), "opset_15": Form(15, [PLANES, *BATCH_NORM])},
    "Clip": {
        "opset_6": Form(6, [PLANES], {"min": -0.5, "max": 0.25}),
        "opset_6_open": Form(6, [PLANES]),
        "opset_11": Form(11, [PLANES, np.float32(-0.5), None]),
    },
    "Softmax": {"opset_11": Form(11, [PLANES], {"axis": 2}), "opset_11_default": Form(11, [PLANES])},
    "LogSoftmax": {"opset_11": Form(11, [PLANES], {"axis": 2})},
    "Slice": {"opset_1": Form(9, [PLANES], {"starts": [1, -3], "ends": [3, 100], "axes": [1, 3]})},
    "Squeeze": {"opset_11": Form(11, [(2, 1, 3, 1)], {"axes": [1, -1]})},
    "Unsqueeze": {"opset_11": Form(11, [(2, 3)], {"axes": [0, 3]})},
    "Split": {"opset_11": Form(11, [PLANES], {"axis": 1, "split": [1, 3]}, outputs=2)},
    "Pad": {
        "opset_2": Form(2, [PLANES], {"pads": [0, 0, 1, 2, 0, 0, 3, 0], "value": 0.5}),
        "opset_2_reflect": Form(2, [PLANES], {"mode": "reflect", "pads": [0, 0, 1, 2, 0, 0, 3, 0]}),
    },
    "ReduceMean": {
        "opset_13": Form(13, [PLANES], {"axes": [-1, -2], "keepdims": 0}),
        "opset_18_all": Form(18, [PLANES]),
    },
    "ReduceSum": {"opset_11": Form(11, [PLANES], {"axes": [1]})},
    "ReduceMax": {"opset_13": Form(13, [PLANES], {"axes": [1]})},
    "Upsample": {"opset_9": Form(9, [PLANES, floats(1, 1, 2, 3)], {"mode": "nearest"})},
    "Resize": {
        "opset_10": Form(10, [PLANES, floats(1, 1, 2, 2)], {"mode": "linear"}),
        "opset_11": Form(
            11,
            [PLANES, floats(), floats(1, 1, 2, 2)],
            {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
        ),
        "opset_13_torch": Form(
            13,
            [PLANES, None, None, ints(2, 4, 10, 3)],
            {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"},
        ),
    },
    "GroupNormalization": {"opset_18": Form(18, [PLANES, (2,), (2,)], {"num_groups": 2})},
    "QuantizeLinear": {
        "ties": Form(13, [floats(-0.5, 0.5, 1.5, 2.5, 1000, -1000), np.float32(1), np.uint8(3)]),
        "channels": Form(13, [PLANES, floats(0.1, 0.2, 0.3, 0.4), np.zeros(4, np.int8)], {"axis": 1}),
    },
    "DequantizeLinear": {
        "bias": Form(13, [codes(6, dtype=np.int32), floats(1e-5, 2e-5, 3e-5, 4e-5, 5e-5, 6e-5)], {"axis": 0}),
        "blocks": Form(
            21, [codes(6, 8, dtype=np.int8), floats(*range(1, 25)).reshape(6, 4)], {"axis": 1, "block_size": 2}
        ),
    },
    "Gemm": {"opset_7": Form(7, [(5, 3), (4, 5), (4,)], {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0})},
    "ConstantOfShape": {"default": Form(9, [ints(2, 3)])},
    "com.microsoft.FusedConv": {
        "relu": Form(1, [PLANES, (6, 4, 3, 3), (6,)], {"activation": "Relu", "pads": [1] * 4}),
        "sum": Form(1, [PLANES, (6, 4, 3, 3), (6,), (2, 6, 5, 7)], {"activation": "Relu", "pads": [1] * 4}),
        "clip": Form(1, [PLANES, (6, 4, 1, 1)], {"activation": "Clip", "activation_params": [-0.5, 0.5]}),
    },
    "com.microsoft.FusedMatMul": {"both": Form(1, [(2, 4, 3), (5, 4)], {"transA": 1, "transB": 1, "alpha": 0.3})},
    "com.microsoft.FusedGemm": {"relu": Form(1, [(5, 3), (3, 4), (4,)], {"activation": "Relu"})},
    "com.microsoft.Gelu": {"plain": Form(1, [PLANES])},
    "com.microsoft.BiasGelu": {"plain": Form(1, [(2, 5, 6), (6,)])},
    "com.microsoft.FastGelu": {"plain": Form(1, [(2, 5, 6)]), "bias": Form(1, [(2, 5, 6), (6,)])},
    "com.microsoft.QuickGelu": {"plain": Form(1, [PLANES], {"alpha": 1.702})},
    "com.microsoft.SkipLayerNormalization": {
        "plain": Form(1, [(2, 5, 6), (2, 5, 6), (6,), (6,), (6,)], {"epsilon": 1e-5})
    },
    "com.microsoft.QuantizeLinear": {
        "bytes": Form(1, [PLANES, np.float32(0.01), np.uint8(128)]),
        "words": Form(1, [PLANES, np.float32(1e-4), np.uint16(30000)]),
    },
    "com.microsoft.DequantizeLinear": {"bytes": Form(1, [codes(2, 3), np.float32(0.01), np.uint8(128)])},
    "com.microsoft.DequantizeNBits": {
        "middle": Form(1, [(3, 40), codes(5, 2, 16), (10,)], {"K": 40, "N": 5, "bits": 4, "block_size": 32}),
        "zeros": Form(
            1,
            [(3, 96), codes(5, 3, 16), (15,), packed(codes(5, 3) % 16).reshape(-1)],
            {"K": 96, "N": 5, "bits": 4, "block_size": 32},
        ),
        "bias": Form(
            1,
            [(3, 64), codes(5, 2, 32), (10,), None, None, (5,)],
            {"K": 64, "N": 5, "bits": 8, "block_size": 32},
        ),
    },
}
# The twin takes these apart (`exporters.twin.network`), so what is run is the whole.
WHOLE = {"com.microsoft.DequantizeNBits": "MatMulNBits"}


def case_from_form(row: str, name: str, form: Form) -> Case:
    """The model of a form, inputs, and what ONNX Runtime makes of them without optimisations."""
    draw = np.random.default_rng(len(name))
    domain = CONTRIB if row.startswith(CONTRIB) else ""
    operator = WHOLE.get(row, row.removeprefix(f"{CONTRIB}."))
    inputs: dict[str, Array] = {}
    constants, names = [], []
    for index, each in enumerate(form.inputs):
        names.append("" if each is None else f"x{index}")
        if isinstance(each, tuple):
            inputs[f"x{index}"] = draw.normal(0, 1, each).astype(np.float32)
        elif each is not None:
            constants.append(numpy_helper.from_array(np.asarray(each), f"x{index}"))
    outputs = [f"y{index}" for index in range(form.outputs)]
    node = helper.make_node(operator, names, outputs, "node", domain=domain, **form.attributes)
    graph = helper.make_graph(
        [node],
        name,
        [helper.make_tensor_value_info(key, onnx.TensorProto.FLOAT, value.shape) for key, value in inputs.items()],
        [onnx.ValueInfoProto(name=output) for output in outputs],
        constants,
    )
    opsets = [helper.make_opsetid("", 17 if domain else form.opset), helper.make_opsetid(CONTRIB, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    expected = dict(zip(outputs, _answers(model, inputs), strict=True))
    return Case(f"{row}_{name}", model, inputs, expected)


def _answers(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> list[Array]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    answers: list[Array] = session.run(None, dict(inputs))
    return answers


@functools.cache
def runtime_cases(row: str) -> tuple[Case, ...]:
    """All cases of a row."""
    return tuple(case_from_form(row, name, form) for name, form in FORMS.get(row, {}).items())
