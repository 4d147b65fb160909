"""Write: what was trained becomes integers in the file that it was trained as."""

from __future__ import annotations

import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor

from exporters.qat.base import Quantiser
from exporters.qat.graph import MIDDLE, FakeQuantised

INT32 = 2**31 - 1


def trained_model(model: onnx.ModelProto, network: FakeQuantised) -> onnx.ModelProto:
    """The Q/DQ file with the codes and scales of a trained network.

    Codes of fewer than 8 bits are stored in 8: kernels of ONNX Runtime for convolutions have no others. Weights fit as
    they are. Of an activation, QuantizeLinear cuts off at the ends of uint8 only, so a Clip of the codes follows it
    where the levels end earlier; it works on integers and leaves the kernels on both sides as they are.

    Args:
        model: what the network was made of.
    """
    written = onnx.ModelProto()
    written.CopyFrom(model)
    constants = {tensor.name: tensor for tensor in written.graph.initializer}

    def put(name: str, values: Tensor) -> None:
        constants[name].CopyFrom(numpy_helper.from_array(values.detach().cpu().numpy(), name))

    with torch.no_grad():
        for place, layer in enumerate(network.layers):
            quantiser = network.weight_quantiser(place)
            codes = quantiser.codes(network.weights[place])
            put(layer.weight.stored, codes.to(torch.int8))
            _put_scales(constants[layer.weight.scale], quantiser.scale())
            if layer.bias is not None:
                step = network.bias_step(place)
                put(layer.bias.stored, torch.round(network.biases[str(place)] / step).clamp(-INT32, INT32).int())
                _put_scales(constants[layer.bias.scale], step)
        for activation in network.activations:
            quantiser = network.activation_quantiser(activation.scale)
            put(activation.scale, quantiser.scale().float())
            put(activation.zero, torch.tensor(MIDDLE if activation.signed else 0, dtype=torch.uint8))
    _clip_codes(written.graph, network)
    onnx.checker.check_model(written)
    return written


def code_range(quantiser: Quantiser) -> tuple[int, int]:
    """The least and the greatest code that a quantiser of activations gives."""
    lowest, highest = quantiser.codes(quantiser.scale() * torch.tensor([-1e6, 1e6])).tolist()
    return int(lowest), int(highest)


def _put_scales(tensor: onnx.TensorProto, scales: Tensor) -> None:
    """As many scales as the file has: one number serves all channels where a quantiser has no other."""
    spread = scales.detach().float().expand(list(tensor.dims)).contiguous()
    tensor.CopyFrom(numpy_helper.from_array(spread.cpu().numpy(), tensor.name))


def _clip_codes(graph: onnx.GraphProto, network: FakeQuantised) -> None:
    """A Clip behind each QuantizeLinear whose quantiser has fewer levels than uint8."""
    nodes = []
    bounds: dict[str, int] = {}
    for node in graph.node:
        nodes.append(node)
        if node.op_type != "QuantizeLinear":
            continue
        quantiser = network.activation_quantiser(node.input[1])
        start = MIDDLE if quantiser.levels.signed else 0
        lowest, highest = (code + start for code in code_range(quantiser))
        if (lowest, highest) == (0, 255):
            continue
        names = [f"code_{lowest}", f"code_{highest}"]
        bounds.update(zip(names, (lowest, highest), strict=True))
        codes = node.output[0]
        node.output[0] = f"{codes}_unclipped"
        nodes.append(helper.make_node("Clip", [node.output[0], *names], [codes], f"{codes}_clip"))
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(
        helper.make_tensor(name, onnx.TensorProto.UINT8, [], [code]) for name, code in bounds.items()
    )
