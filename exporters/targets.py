"""Targets: how a kind of engine wants its integers. A new one is a function here and a row of `exporters.TARGETS`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from onnxruntime.quantization import QuantType

from engines.cpu import kernel_class, saturates
from exporters.calibration import OPERATORS

# What TensorRT computes on integers. Activation functions are left out: it fuses them into the layer before.
_TENSORRT_OPERATORS = (
    "Add",
    "AveragePool",
    "Conv",
    "ConvTranspose",
    "Gemm",
    "GlobalAveragePool",
    "MatMul",
    "MaxPool",
)


@dataclass(frozen=True)
class Target:
    """How one kind of engine wants its integers.

    Args:
        activation: element type of activations.
        weight: element type of weights.
        symmetric: whether the zero points of activations are in the middle unless the user asks otherwise.
        asymmetric_allowed: whether the engine takes other zero points at all.
        operators: the operators whose tensors become integers.
        reduce_range: 7-bit weights, for processors whose 8-bit products saturate at 16 bits.
        float_sums: one input of each addition stays as the layer before it made it, so that the runtime adds inside
            that layer; the other input, the residual, becomes integers.
        options: further options of ONNX Runtime's quantiser.
        opset: the version of ONNX's operators in which a float model is written for it.
    """

    activation: QuantType
    weight: QuantType = QuantType.QInt8
    symmetric: bool = False
    asymmetric_allowed: bool = True
    operators: tuple[str, ...] = tuple(OPERATORS)
    reduce_range: bool = False
    float_sums: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    opset: int = 18


def ort_cpu() -> Target:
    """U8S8: MLAS's integer kernels want unsigned activations. Weights have 7 bits where this processor saturates."""
    return Target(QuantType.QUInt8, reduce_range=saturates(kernel_class()))


def simulated() -> Target:
    """U8S8 as quantisation-aware training simulates it: all 8 bits on any processor, biases in float."""
    return Target(QuantType.QUInt8, options={"QuantizeBias": False})


def tensorrt() -> Target:
    """S8S8 with zero points of 0, Q/DQ on inputs and weights only, integer residuals, biases in float.

    Source: TensorRT's documentation of explicit quantisation; the options are those of NVIDIA's ModelOpt.
    """
    return Target(
        QuantType.QInt8,
        symmetric=True,
        asymmetric_allowed=False,
        operators=_TENSORRT_OPERATORS,
        float_sums=True,
        options={
            "AddQDQPairToWeight": True,
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": list(_TENSORRT_OPERATORS),
            "QDQOpTypePerChannelSupportToAxis": {"Conv": 0, "ConvTranspose": 1},
            "ForceQuantizeNoInputCheck": True,
        },
        opset=17,  # the newest that TensorRT 8.6 reads
    )


def ort_cuda() -> Target:
    """As for TensorRT. ONNX Runtime's CUDA provider has no integer convolution, so most of it runs in float."""
    return replace(tensorrt(), opset=Target.opset)
