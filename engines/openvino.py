"""OpenVINO on the CPU: a second runtime for the same float and Q/DQ files, with kernels of its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import openvino as ov

from engines.artifact import Artifact, TensorSpec
from engines.base import ON_A_GPU, Array, EngineError, EngineOptions, refuse_options
from engines.cpu import kernel_class

DEVICE = "CPU"

# Turns Q/DQ pairs into integer kernels; switched off, the same file runs as the arithmetic that it simulates. It is
# accepted by the CPU plugin of 2025.0 to 2026.4 without being among its listed properties, and cannot be read back:
# the certificate proves what it did.
INTEGER_KERNELS = "LP_TRANSFORMS_MODE"


def properties(options: EngineOptions) -> dict[str, Any]:
    """The properties that stand for `EngineOptions`; the certificate compiles with the same."""
    # More than one stream without integer kernels gives wrong answers behind a Gemm with 8-bit weights (2026.4).
    streams = max(1, (os.cpu_count() or 1) // options.threads) if options.integer_kernels else 1
    return {
        # Processors with AMX would compute float layers in bfloat16 without being asked.
        "INFERENCE_PRECISION_HINT": "f32",
        # Else activations of layers with 4-bit weights are quantised on the fly.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": streams * options.threads,
        INTEGER_KERNELS: options.integer_kernels,
    }


def compiled(artifact: Artifact, options: EngineOptions, *, profiled: bool = False) -> ov.CompiledModel:
    """The model, compiled for the CPU.

    Raises:
        EngineError: OpenVINO refuses it, or has no such option.
    """
    refuse_options("OpenVINO", options, {"optimisation": "all", "arena": True, **ON_A_GPU})
    core = ov.Core()
    try:
        return core.compile_model(
            core.read_model(str(artifact.path)), DEVICE, {**properties(options), "PERF_COUNT": profiled}
        )
    except RuntimeError as error:
        raise EngineError(f"OpenVINO {ov.__version__} cannot open {artifact.path}: {error}") from error


class OpenVinoEngine:
    """A compiled model; every thread has an inference request of its own."""

    reentrant = True

    def __init__(self, artifact: Artifact, options: EngineOptions) -> None:
        self.inputs: tuple[TensorSpec, ...] = (artifact.input,)
        self.outputs: tuple[TensorSpec, ...] = (artifact.output,)
        self._path = artifact.path
        self._options = options
        self._model: ov.CompiledModel | None = compiled(artifact, options)
        self._requests = threading.local()
        got = self._model.get_property("INFERENCE_PRECISION_HINT")
        if got != ov.Type.f32:
            raise EngineError(f"asked OpenVINO to compute float layers in f32, got {got}")

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """See `engines.base.Engine.run`."""
        model = self._open()
        request = getattr(self._requests, "request", None)
        if request is None:
            request = self._requests.request = model.create_infer_request()
        try:
            answers = request.infer(dict(feeds))
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed on {self._path.name}: {error}") from error
        # The request's own memory is written again by its next run.
        return {spec.name: np.array(answers[spec.name]) for spec in self.outputs}

    def facts(self) -> dict[str, Any]:
        """See `engines.base.Engine.facts`."""
        model = self._open()
        streams = int(model.get_property("NUM_STREAMS"))
        return {
            "runtime": f"openvino {ov.__version__}",
            "provider": ", ".join(model.get_property("EXECUTION_DEVICES")),
            "device": ov.Core().get_property(DEVICE, "FULL_DEVICE_NAME"),
            "kernel_class": kernel_class(),
            "float_precision": str(model.get_property("INFERENCE_PRECISION_HINT").to_string()),
            "threads": int(model.get_property("INFERENCE_NUM_THREADS")) // max(1, streams),
            "streams": streams,
            "integer_kernels": self._options.integer_kernels,
        }

    def close(self) -> None:
        """See `engines.base.Engine.close`."""
        self._model = None
        self._requests = threading.local()

    def _open(self) -> ov.CompiledModel:
        if self._model is None:
            raise EngineError(f"the engine of {self._path} is closed; open it again")
        return self._model


def open_cpu(artifact: Artifact, options: EngineOptions) -> OpenVinoEngine:
    """An engine on OpenVINO's CPU plugin."""
    return OpenVinoEngine(artifact, options)
