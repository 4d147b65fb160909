"""Gradients: those of finite differences where an operator is smooth, and the straight-through rule where it rounds."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.exporters.twin.onnx_cases import Case, cases_of
from tests.exporters.twin.runtime_cases import runtime_cases

torch = pytest.importorskip("torch")

from exporters.twin.network import Twin  # noqa: E402

# Operators whose derivatives the twin takes from torch as they are, or puts together by itself.
SMOOTH = [
    *(
        "Conv",
        "ConvTranspose",
        "MaxPool",
        "AveragePool",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "Pad",
        "Resize",
        "Upsample",
    ),
    *("MatMul", "Gemm", "Einsum", "Attention"),
    *("BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization", "RMSNormalization"),
    *("LRN", "LpNormalization", "Softmax", "LogSoftmax", "ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2"),
    *("Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Exp", "Log", "Erf", "Tanh", "Sigmoid", "Clip", "Min", "Max"),
    *("Relu", "LeakyRelu", "PRelu", "Elu", "HardSigmoid", "HardSwish", "Swish", "Mish", "Gelu", "Softplus"),
    *(
        "Reshape",
        "Flatten",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Concat",
        "Split",
        "Slice",
        "Gather",
        "Expand",
        "Tile",
    ),
    *("Where", "DepthToSpace", "SpaceToDepth"),
    *("com.microsoft.FusedConv", "com.microsoft.FusedMatMul", "com.microsoft.FusedGemm"),
    *("com.microsoft.Gelu", "com.microsoft.BiasGelu", "com.microsoft.FastGelu", "com.microsoft.QuickGelu"),
    *("com.microsoft.SkipLayerNormalization", "com.microsoft.DequantizeNBits"),
]


FLOATS = (np.float32, np.float64)


def smallest(row: str) -> Case:
    """The published case, or one of ONNX Runtime, with the fewest numbers, all of them floats."""
    published = () if row.startswith("com.microsoft") else cases_of(row)
    cases = [
        case
        for case in (*published, *runtime_cases(row))
        if any(values.dtype in FLOATS and values.size > 1 for values in case.inputs.values())
        if all(values.dtype in FLOATS and values.size for values in case.expected.values())
        if "training" not in case.name and "window" not in case.name  # which the twin refuses
    ]
    return min(cases, key=lambda case: sum(values.size for values in case.inputs.values()))


@pytest.mark.parametrize("row", SMOOTH)
def test_gradients_are_those_of_finite_differences(row: str) -> None:
    case = smallest(row)
    twin = Twin(case.model)
    twin.outputs = twin.outputs[:1]
    twin.double()
    draw = np.random.default_rng(1)
    inputs = {name: torch.from_numpy(np.array(values)) for name, values in case.inputs.items()}
    for name, values in inputs.items():
        if values.is_floating_point() and values.numel():  # off the kinks, which round numbers are likely to hit
            inputs[name] = values.double() + torch.from_numpy(draw.uniform(0.01, 0.1, tuple(values.shape)))
    free = [name for name, values in inputs.items() if values.dtype is torch.float64 and values.dim()]
    if row == "BatchNormalization":
        free = free[:1]  # torch has no derivatives by stored statistics

    def function(*values: torch.Tensor) -> torch.Tensor:
        return twin.evaluate({**inputs, **dict(zip(free, values, strict=True))})[twin.outputs[0]]

    assert torch.autograd.gradcheck(function, [inputs[name].requires_grad_() for name in free], fast_mode=True)


def one_node(operator: str, constants: dict[str, np.ndarray], attributes: dict[str, int] | None = None) -> Twin:
    """The twin of one operator behind the input x."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    node = helper.make_node(operator, ["x", *constants], ["y"], operator, **(attributes or {}))
    tensors = [helper.make_tensor(name, *_typed(values)) for name, values in constants.items()]
    graph = helper.make_graph([node], "one", [value], [result], tensors)
    return Twin(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))


def _typed(values: np.ndarray) -> tuple[int, tuple[int, ...], list[float]]:
    return helper.np_dtype_to_tensor_dtype(values.dtype), values.shape, values.reshape(-1).tolist()


@pytest.mark.parametrize("operator", ["Floor", "Ceil", "Round"])
def test_rounding_is_computed_and_its_gradient_passes_straight_through(operator: str) -> None:
    x = torch.tensor([-1.5, -0.2, 0.5, 2.7], requires_grad=True)
    found = one_node(operator, {})(x)
    assert found.tolist() == {"Floor": [-2, -1, 0, 2], "Ceil": [-1, 0, 1, 3], "Round": [-2, 0, 0, 3]}[operator]
    found.square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * found.detach())


@pytest.mark.parametrize(("kind", "zero"), [(np.uint8, 0), (np.uint8, 131), (np.int8, 0), (np.int8, -7)])
def test_fake_quantisation_has_the_values_and_the_gradients_of_torchs_own(kind: type, zero: int) -> None:
    limits = np.iinfo(kind)
    x = torch.linspace(-9.01, 9.02, 1001, requires_grad=True)
    ours = quantised_pair(x, np.float32(0.05), np.array(zero, kind))
    reference = x.detach().clone().requires_grad_()
    theirs = torch.fake_quantize_per_tensor_affine(reference, 0.05, zero, int(limits.min), int(limits.max))
    torch.testing.assert_close(ours, theirs)
    ours.sum().backward()
    theirs.sum().backward()
    torch.testing.assert_close(x.grad, reference.grad)
    assert set(x.grad.tolist()) == {0.0, 1.0}


def test_each_channel_has_its_own_grid() -> None:
    x = torch.tensor([[0.3, 0.3], [100.0, 100.0]], requires_grad=True)
    found = quantised_pair(x, np.array([0.1, 1.0], np.float32), np.array([0, 0], np.int8))
    torch.testing.assert_close(found, torch.tensor([[0.3, 0.0], [12.7, 100.0]]))
    found.sum().backward()
    assert x.grad.tolist() == [[1.0, 1.0], [0.0, 1.0]]


def quantised_pair(x: torch.Tensor, scale: np.ndarray, zero: np.ndarray) -> torch.Tensor:
    constants = {"scale": np.asarray(scale), "zero": zero}
    attributes = {"axis": 1} if constants["scale"].ndim else {}
    return one_node("DequantizeLinear", constants, attributes)(one_node("QuantizeLinear", constants, attributes)(x))
