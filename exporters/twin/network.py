"""The twin of a network: its graph, computed by torch in the order of the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import onnx
import onnx.inliner
import torch
from onnx import helper
from torch import Tensor, nn

from engines.artifact import Artifact
from exporters.base import ExportError
from exporters.twin.node import Node, Operator, node_from_onnx, tensor_from_onnx
from exporters.twin.table import OPERATORS, row

ONNX_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class _Step:
    """A node that is computed at every call.

    Args:
        function, node: what is computed.
        inputs: names; "" for one that is left out.
        outputs: names.
        last_use: what no later step reads.
    """

    function: Operator
    node: Node
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    last_use: tuple[str, ...] = ()


class Twin(nn.Module):
    """A graph as a module: frozen weights, no state, the same in training and evaluation.

    What depends on constants alone is computed once, here; so quantised weights become the numbers they stand for.
    `double` makes it a network of float64, for checks of gradients.

    Args:
        model: with all weights inside.
        batch: the length that the first input must have, or ``None`` where any will do.
        operators: what its nodes compute; rows as in `OPERATORS`.

    Raises:
        ExportError: the graph has an operator, or a form of one, that the twin lacks.
    """

    def __init__(
        self, model: onnx.ModelProto, batch: int | None = None, operators: Mapping[str, Operator] = OPERATORS
    ) -> None:
        super().__init__()
        graph = _flat(model).graph
        opsets = {"" if each.domain in ONNX_DOMAINS else each.domain: each.version for each in model.opset_import}
        _check_operators(graph, opsets, operators)
        constants = {tensor.name: tensor_from_onnx(tensor) for tensor in graph.initializer}
        types = {value.name: value.type.tensor_type.elem_type for value in graph.input}
        types.update((tensor.name, tensor.data_type) for tensor in graph.initializer)
        self.batch = batch
        self.inputs = tuple(value.name for value in graph.input if value.name not in constants)
        self.outputs = tuple(value.name for value in graph.output)
        self._steps = _with_last_use(_folded(graph, opsets, constants, types, operators), self.outputs)
        read = {name for step in self._steps for name in step.inputs} | set(self.outputs)
        self._buffer_of = {}
        for index, name in enumerate(sorted(read & set(constants))):
            self._buffer_of[name] = f"constant_{index}"
            self.register_buffer(f"constant_{index}", constants[name])

    def forward(self, x: Tensor) -> Tensor:
        """The first output, for a batch of any length.

        A graph that insists on a length is given as many at a time; the last ones are filled up with zeros.

        Args:
            x: as the first input of the graph; levels of an input of uint8 are given as floats, so that they have
                gradients.
        """
        name, output = self.inputs[0], self.outputs[0]
        if self.batch is None or len(x) == self.batch:
            return self.evaluate({name: x})[output]
        parts = []
        for part in x.split(self.batch):
            filling = part.new_zeros((self.batch - len(part), *part.shape[1:]))
            parts.append(self.evaluate({name: torch.cat([part, filling])})[output][: len(part)])
        return torch.cat(parts)

    def evaluate(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All outputs of the graph, by name."""
        values = dict(inputs)
        values.update((name, cast(Tensor, getattr(self, buffer))) for name, buffer in self._buffer_of.items())
        for step in self._steps:
            values.update(_computed(step, values))
            for name in step.last_use:
                values.pop(name, None)
        return {name: values[name] for name in self.outputs}


def twin_from_artifact(artifact: Artifact) -> Twin:
    """The twin of an ONNX classifier, with or without Q/DQ; one picture has been through it.

    Raises:
        ExportError: it is no ONNX file, or its graph has an operator, or a form of one, that the twin lacks.
    """
    if artifact.format != "onnx":
        raise ExportError(
            f"{artifact.path.name} is a {artifact.format}, of which no gradients can be computed; give the ONNX file "
            f"that it was built from"
        )
    try:
        twin = Twin(onnx.load(str(artifact.path)), artifact.fixed_batch).eval()
        shape = (3, *artifact.size) if artifact.layout == "nchw" else (*artifact.size, 3)
        with torch.no_grad():
            scores = twin(torch.zeros(artifact.fixed_batch or 1, *shape))
    except ExportError as error:
        raise ExportError(f"{artifact.path.name}: {error}") from error
    if scores.shape[1] != artifact.class_count:
        raise ExportError(
            f"the twin of {artifact.path.name} has the output {list(scores.shape)}; expected {artifact.class_count} "
            f"classes; export the model again"
        )
    return twin


def _flat(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with functions in place, and each MatMulNBits apart: a weight, which is folded, and a MatMul."""
    flat = onnx.inliner.inline_local_functions(model) if model.functions else onnx.ModelProto()
    if not model.functions:
        flat.CopyFrom(model)
    nodes = [part for node in flat.graph.node for part in _parts(node)]
    del flat.graph.node[:]
    flat.graph.node.extend(nodes)
    return flat


def _parts(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    if node.op_type != "MatMulNBits":
        yield node
        return
    weight, product = f"{node.output[0]}_weight", f"{node.output[0]}_product"
    left, stored, bias = node.input[0], list(node.input[1:5]), (list(node.input[5:6]) or [""])[0]
    unpacked = helper.make_node("DequantizeNBits", stored, [weight], node.name, domain=node.domain)
    unpacked.attribute.extend(node.attribute)
    yield unpacked
    yield helper.make_node("MatMul", [left, weight], [product if bias else node.output[0]], node.name)
    if bias:
        yield helper.make_node("Add", [product, bias], list(node.output), node.name)


def _check_operators(graph: onnx.GraphProto, opsets: Mapping[str, int], operators: Mapping[str, Operator]) -> None:
    lacking: dict[str, Node] = {}
    for each in graph.node:
        key = row(each.domain, each.op_type)
        if key not in operators and key != "Constant":
            node = node_from_onnx(each, _opset(each, opsets), {})
            lacking.setdefault(key, node)
    if lacking:
        raise ExportError(
            f"the twin lacks {'; '.join(node.place for node in lacking.values())}; attack this model by queries, "
            f"or export it without them"
        )


def _folded(
    graph: onnx.GraphProto,
    opsets: Mapping[str, int],
    constants: dict[str, Tensor],
    types: dict[str, int],
    operators: Mapping[str, Operator],
) -> list[_Step]:
    """The nodes that depend on the input; what the others compute is added to the constants."""
    steps = []
    for each in graph.node:
        if each.op_type == "Constant":
            constants[each.output[0]], types[each.output[0]] = _constant(each, _opset(each, opsets))
            continue
        node = node_from_onnx(each, _opset(each, opsets), types)
        step = _Step(operators[row(each.domain, each.op_type)], node, tuple(each.input), tuple(each.output))
        if all(name in constants for name in each.input if name):
            with torch.no_grad():
                constants.update(_computed(step, constants))
        else:
            steps.append(step)
    return steps


def _computed(step: _Step, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    missing = next((name for name in step.inputs if name and name not in values), None)
    if missing is not None:
        raise step.node.refusal(f"the input {missing!r}, an output that the twin leaves out of an earlier node")
    results = step.function(step.node, *(values[name] if name else None for name in step.inputs))
    outputs = results if isinstance(results, tuple) else (results,)
    return {name: value for name, value in zip(step.outputs, outputs, strict=False) if name}


def _with_last_use(steps: Sequence[_Step], outputs: Sequence[str]) -> tuple[_Step, ...]:
    """The steps, each with the values that may be forgotten behind it."""
    seen = set(outputs)
    found = []
    for step in reversed(steps):
        last = {name for name in (*step.inputs, *step.outputs) if name and name not in seen}
        seen |= last
        found.append(_Step(step.function, step.node, step.inputs, step.outputs, tuple(sorted(last))))
    return tuple(reversed(found))


def _constant(node: onnx.NodeProto, opset: int) -> tuple[Tensor, int]:
    attributes = node_from_onnx(node, opset, {}).attributes
    name, value = next(iter(attributes.items()))
    if name == "value":
        return value, node.attribute[0].t.data_type
    if name in ("value_int", "value_ints"):
        return torch.tensor(value, dtype=torch.int64), onnx.TensorProto.INT64
    if name in ("value_float", "value_floats"):
        return torch.tensor(np.array(value, np.float32)), onnx.TensorProto.FLOAT
    raise node_from_onnx(node, opset, {}).refusal(f"the attribute {name}")


def _opset(node: onnx.NodeProto, opsets: Mapping[str, int]) -> int:
    return opsets.get("" if node.domain in ONNX_DOMAINS else node.domain, 1)
