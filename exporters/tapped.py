"""Tapped: a model in ONNX Runtime that also tells what its nodes compute."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from engines.ort import CPU, SIMULATE, OrtFailure
from exporters.base import ExportError, Picture

Activations = Mapping[str, npt.NDArray[np.float32]]


class Tapped:
    """A session that returns named activations, and computes nothing that they do not need.

    Args:
        model: one input.
        names: of tensors, each made by a node.
        simulated: whether Q/DQ nodes compute what they say, in float, instead of becoming integer kernels.

    Raises:
        ExportError: ONNX Runtime refuses the model.
    """

    def __init__(self, model: onnx.ModelProto, names: Iterable[str], *, simulated: bool = False) -> None:
        tapped = onnx.ModelProto()
        tapped.CopyFrom(model)
        self._names = list(dict.fromkeys(names))
        known = {value.name for value in tapped.graph.output}
        tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self._names if name not in known)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        # Between two pictures the caller computes with NumPy, which wants the cores that idle threads would spin on.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if simulated:
            options.add_session_config_entry(SIMULATE, "1")
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        try:
            self._session = ort.InferenceSession(tapped.SerializeToString(), options, providers=[CPU])
        except OrtFailure as error:
            raise ExportError(f"ONNX Runtime {ort.__version__} cannot open the model: {error}") from error
        self._feed = self._session.get_inputs()[0].name
        self._run_options = ort.RunOptions()
        self._run_options.only_execute_path_to_fetches = True

    def __call__(self, picture: Picture) -> Activations:
        """Tensor name -> its values for one picture.

        Raises:
            ExportError: ONNX Runtime refuses the picture.
        """
        try:
            values = self._session.run(self._names, {self._feed: picture}, self._run_options)
        except OrtFailure as error:
            raise ExportError(f"ONNX Runtime {ort.__version__} cannot run the model on a picture: {error}") from error
        return dict(zip(self._names, values, strict=True))
