"""Saturation: which layers of a Q/DQ file may compute wrong sums on a processor without dot-product instructions.

Such a kernel multiplies unsigned activations with signed weights and adds the products in pairs, in 16 bits that
saturate at 32767 (VPMADDUBSW). Two weights of one sign whose sum passes 128 make a pair that overflows when the
activations are largest. 7-bit weights (``reduce_range``) cannot make one: 255 * (64 + 64) is 32640.

This reads the file alone, so it says what may happen. What does happen depends on the pictures: bright and noisy ones
have larger activations.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from engines.macs import INTEGER_OPERATORS, layers_from_onnx

LARGEST_ACTIVATION = 255
LOWEST_SUM, HIGHEST_SUM = -(1 << 15), (1 << 15) - 1

# What exporters put between a stored weight and its DequantizeLinear, and the first opset in which ONNX's evaluator
# knows all of it; its meaning has not changed since the opsets before.
_EVALUABLE = ("Clip", "Constant", "Identity", "QuantizeLinear", "Reshape", "Transpose")
_EVALUATED = 21

Weights = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Saturation:
    """One layer whose sums may saturate.

    Args:
        layer: its name in the file.
        macs: its multiply-accumulates for one picture.
        worst: the largest sum of one pair, in units of the largest that fits; above 1.
        pairs: share of its pairs of weights that can overflow, 0 to 1.
    """

    layer: str
    macs: int
    worst: float
    pairs: float


def saturating_layers(path: Path) -> tuple[Saturation, ...]:
    """The layers of unsigned activations and signed weights with pairs that may overflow, in the file's order."""
    model = onnx.load(str(path))
    stored = _Stored(model)
    nodes = {node.name or node.output[0]: node for node in model.graph.node}
    found = []
    for layer in layers_from_onnx(path):
        if (layer.activation, layer.weight) != ("uint8", "int8"):
            continue
        node = nodes[layer.name]
        place = INTEGER_OPERATORS[node.op_type][1] if node.op_type in INTEGER_OPERATORS else 1
        codes = stored.codes(node.input[place])
        weights = None if codes is None else _by_output(layer.operator, node, codes)
        if weights is None:
            continue
        sums = worst_sums(weights)
        if (sums > 1).any():
            found.append(Saturation(layer.name, layer.macs, float(sums.max()), float((sums > 1).mean())))
    return tuple(found)


class _Stored:
    """What of a graph is known without an input: constants, and what is computed of them alone."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._constants = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
        self._makers = {name: node for node in model.graph.node for name in node.output}
        opset = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), _EVALUATED)
        self._opsets = {"": max(opset, _EVALUATED)}

    def codes(self, name: str) -> npt.NDArray[Any] | None:
        """The integers of a weight, before its DequantizeLinear if it has one; ``None`` where they depend on the input.

        Exporters store them, or clip what they store (Brevitas), or store floats behind a QuantizeLinear (ModelOpt,
        AIMET).
        """
        maker = self._makers.get(name)
        return self._value(name if maker is None or maker.op_type != "DequantizeLinear" else maker.input[0])

    def _value(self, name: str) -> npt.NDArray[Any] | None:
        if name in self._constants:
            return self._constants[name]
        node = self._makers.get(name)
        if node is None or node.op_type not in _EVALUABLE:
            return None
        inputs = {each: self._value(each) for each in node.input if each}
        if any(value is None for value in inputs.values()):
            return None
        results: Any = ReferenceEvaluator(node, opsets=self._opsets).run(None, inputs)
        return np.asarray(results[0])


def worst_sums(weights: Weights) -> npt.NDArray[np.float64]:
    """The largest magnitude that each pair of products can reach, in units of the largest that 16 bits hold.

    Args:
        weights: int8 [outputs, terms], in the order in which the kernel takes them.

    >>> worst_sums(np.array([[127, 127, 127, -127, 64, 64]], np.int8)).round(3).tolist()
    [[1.977, 0.988, 0.996]]
    """
    padded = np.pad(weights.astype(np.int64), ((0, 0), (0, weights.shape[1] % 2)))
    pairs = padded.reshape(len(padded), -1, 2)
    highest = LARGEST_ACTIVATION * np.maximum(pairs, 0).sum(axis=2) / HIGHEST_SUM
    lowest = LARGEST_ACTIVATION * np.minimum(pairs, 0).sum(axis=2) / LOWEST_SUM
    worst: npt.NDArray[np.float64] = np.maximum(highest, lowest)
    return worst


def _by_output(operator: str, node: onnx.NodeProto, weights: npt.NDArray[Any]) -> Weights | None:
    """Weights as [outputs, terms], terms in the kernel's order; ``None`` for a layer whose kernel adds no pairs."""
    attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    if operator == "Conv":
        if weights.ndim != 4 or (weights.shape[1] == 1 and attributes.get("group", 1) == weights.shape[0]):
            return None  # a depthwise convolution adds in 32 bits
        return weights.transpose(0, 2, 3, 1).reshape(len(weights), -1)  # channels are innermost
    if weights.ndim != 2:
        return None
    return weights if operator == "Gemm" and attributes.get("transB", 0) else weights.T
