"""ONNX's own tests of its operators: models of one node, with inputs and the outputs that they must have."""

from __future__ import annotations

import functools
import importlib
import pkgutil
import warnings
from typing import NamedTuple

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case import node as published

Array = np.ndarray

# What the twin keeps numbers of; ONNX has smaller ones.
KINDS = {"bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8"}
# Files that are not called as their operator.
FILES = {"range": "rangeop", "reshape": "reshape"}


class Case(NamedTuple):
    """One published test; ``expected`` are the outputs, by name."""

    name: str
    model: onnx.ModelProto
    inputs: dict[str, Array]
    expected: dict[str, Array]


@functools.cache
def cases_of(operator: str) -> tuple[Case, ...]:
    """All tests that ONNX has of an operator, with numbers of `KINDS`; none twice in functions of smaller operators."""
    wanted = FILES.get(operator.lower(), operator.lower())
    names = [each.name for each in pkgutil.iter_modules(published.__path__)]
    for name in names:
        if name.replace("_", "") == wanted:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # some compute infinities on the way
                importlib.import_module(f"{published.__name__}.{name}")
    return tuple(
        case
        for test in published._NodeTestCases
        if test.model.graph.node[0].op_type == operator and len(test.model.graph.node) == 1
        if "_expanded" not in test.name
        if (case := _case(test.name, test.model, *test.data_sets[0])) is not None
    )


def _case(name: str, model: onnx.ModelProto, inputs: list[object], outputs: list[object]) -> Case | None:
    arrays = [_array(each) for each in (*inputs, *outputs)]
    if any(each.dtype.name not in KINDS for each in arrays):
        return None
    graph = model.graph
    names = [value.name for value in (*graph.input, *graph.output)]
    named = list(zip(names, arrays, strict=True))
    return Case(name, model, dict(named[: len(inputs)]), dict(named[len(inputs) :]))


def _array(value: object) -> Array:
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)
