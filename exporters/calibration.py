"""Calibration: pictures go through the float model one at a time, and observers watch its activations."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from engines.artifact import Artifact
from exporters.base import Calibration, ExportError, Observer, Picture, Source, Values
from exporters.folding import folded_model
from exporters.tapped import Tapped

# Everything that ONNX Runtime can compute on integers, sorted: a set's order would change from run to run.
OPERATORS = sorted({*QLinearOpsRegistry, *QDQRegistry})

_WORKERS = 2


def calibrate(
    artifact: Artifact, pictures: Iterable[Picture], source: Source, new_observer: Callable[[], Observer]
) -> Calibration:
    """The range of every activation that a target may want to quantise.

    Args:
        artifact: the float model.
        pictures: float32 inputs as the model takes them, one at a time; memory does not grow with their number.
        source: what they are.
        new_observer: one for each tensor.

    Raises:
        ExportError: no pictures, or activations that are not finite numbers.
    """
    model = folded_model(artifact)
    names = activation_names(model)
    observers = {name: new_observer() for name in names}
    made = [name for name in names if name != artifact.input.name]
    activations = Tapped(model, made)
    inputs = 0
    with ThreadPoolExecutor(_WORKERS) as workers:
        for picture in pictures:
            values = {artifact.input.name: picture, **activations(picture)}
            list(workers.map(_observe, observers.values(), names, map(values.__getitem__, names)))
            inputs += 1
    if not inputs:
        raise ExportError("calibration needs at least one picture; got none")
    return Calibration(
        ranges={name: observer.range() for name, observer in observers.items()},
        model_sha256=artifact.sha256,
        source=source,
        inputs=inputs,
        made_by={"onnxruntime": ort.__version__, "numpy": np.__version__, "python": platform.python_version()},
    )


def activation_names(model: onnx.ModelProto) -> list[str]:
    """The float32 tensors between the operators that can be quantised, the model's input included, in graph order."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    floats = {
        value.name
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    constants = {tensor.name for tensor in graph.initializer}
    touched = (
        name
        for node in graph.node
        if node.op_type in OPERATORS
        for name in (*node.input, *node.output)
        if name in floats
    )
    return [name for name in dict.fromkeys(touched) if name not in constants]


def _observe(observer: Observer, name: str, values: Values) -> None:
    if not np.isfinite(values).all():
        raise ExportError(
            f"the activation {name!r} takes values that are not finite numbers; no integer can cover them"
        )
    observer.observe(values)
