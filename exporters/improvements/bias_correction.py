"""Bias correction: what quantisation adds to a layer's output on average is taken off its bias.

Rounded weights move the mean of every output channel, and means add up over the layers. The correction is the mean of
what the calibration pictures show, layer by layer in the order of the graph, so that a layer is corrected for what the
corrected layers before it still do.

Source: Nagel, van Baalen, Blankevoort and Welling, "Data-Free Quantization Through Weight Equalization and Bias
Correction", 2019, section 4.2 and appendix D, empirical bias correction.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx

from exporters.base import ExportError
from exporters.improvements.base import Improved, Material
from exporters.improvements.qdq_layers import QdqGraph, QdqLayer, float_nodes
from exporters.products import Left, attributes_of, prune
from exporters.qdq import shown_name
from exporters.tapped import Tapped

Means = npt.NDArray[np.float64]

# operator -> the axis of its output's channels
CHANNEL_AXIS = {"Conv": 1, "Gemm": -1}


class BiasCorrection:
    """Of every convolution and Gemm with integer weights. Memory does not grow with the number of pictures."""

    after = True

    def __call__(self, model: onnx.ModelProto, original: onnx.ModelProto, material: Material) -> Improved:
        """See `exporters.improvements.base.Improvement`."""
        graph = QdqGraph(model.graph)
        names, left = [], []
        for layer in graph.layers():
            reason = _obstacle(layer, graph)
            if reason is None:
                names.append(layer.node.name)
            else:
                left.append(Left(layer.node.name, layer.node.op_type, reason))
        nodes = float_nodes(original)
        exact_nodes = {name: nodes[shown_name(name)] for name in names}
        exact = channel_means(original, exact_nodes, material, simulated=False) if names else {}
        for name in material.over("correct biases", names):
            graph = QdqGraph(model.graph)
            layer = next(each for each in graph.layers() if each.node.name == name)
            got = channel_means(model, {name: layer.node}, material, simulated=True)
            graph.add_to_bias(layer, exact[name] - got[name])
        prune(model.graph)
        return Improved(tuple(names), tuple(left))


def channel_means(
    model: onnx.ModelProto, layers: Mapping[str, onnx.NodeProto], material: Material, *, simulated: bool
) -> dict[str, Means]:
    """Layer -> the mean of each output channel over the calibration pictures, float64 [channels].

    Raises:
        ExportError: there is no picture.
    """
    tapped = Tapped(model, [node.output[0] for node in layers.values()], simulated=simulated)
    sums: dict[str, Means] = {}
    count = 0
    for picture in material.pictures():
        values = tapped(picture)
        for name, node in layers.items():
            channels = np.moveaxis(values[node.output[0]], CHANNEL_AXIS[node.op_type], 0)
            sums[name] = sums.get(name, 0.0) + channels.reshape(len(channels), -1).mean(axis=1, dtype=np.float64)
        count += 1
    if not count:
        raise ExportError("bias-correction looks at calibration pictures; got none")
    return {name: total / count for name, total in sums.items()}


def _obstacle(layer: QdqLayer, graph: QdqGraph) -> str | None:
    """Why a layer's bias cannot be corrected, or ``None`` where it can."""
    if layer.node.op_type not in CHANNEL_AXIS:
        return f"a {layer.node.op_type} has no bias of its own to correct"
    if attributes_of(layer.node).get("beta", 1.0) != 1.0 or not graph.has_own_bias(layer):
        return "its bias is computed, shared, or multiplied by beta"
    return None
