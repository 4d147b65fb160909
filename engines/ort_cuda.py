"""ONNX Runtime on an NVIDIA GPU. It has no integer convolution: a Q/DQ network runs there mostly in float."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnxruntime as ort

from engines.artifact import Artifact, TensorSpec
from engines.base import Array, EngineError, EngineOptions, EngineUnavailable
from engines.certificate import Certificate
from engines.ort import OrtFailure, live_facts, session_options
from engines.ort_certificate import certificate_on

CUDA = "CUDAExecutionProvider"

# At the top, as a missing package would be: the registry says why before anything was calibrated.
if CUDA not in ort.get_available_providers():
    raise EngineUnavailable(
        f"engine 'ort-cuda' needs an ONNX Runtime with {CUDA}; this one has "
        f"{', '.join(ort.get_available_providers())}. In a new environment: pip install 'qharness[gpu]'"
    )


def cuda_session(model: str | bytes, settings: ort.SessionOptions) -> ort.InferenceSession:
    """A session on the first GPU.

    Raises:
        EngineUnavailable: the provider cannot start.
        EngineError: the model is refused.
    """
    try:
        session = ort.InferenceSession(model, settings, providers=[CUDA])
    except OrtFailure as error:
        raise EngineError(f"ONNX Runtime {ort.__version__} cannot open the model on {CUDA}: {error}") from error
    got = session.get_providers()
    if got[0] != CUDA:
        raise EngineUnavailable(
            f"asked ONNX Runtime for {CUDA}, got {got}: its libraries of CUDA or the driver are missing; see its log"
        )
    return session


class OrtCudaEngine:
    """A session on the first GPU; inputs and outputs are bound to its memory."""

    reentrant = False  # one stream

    def __init__(self, artifact: Artifact, options: EngineOptions) -> None:
        self.inputs: tuple[TensorSpec, ...] = (artifact.input,)
        self.outputs: tuple[TensorSpec, ...] = (artifact.output,)
        self._path = artifact.path
        self._session: ort.InferenceSession | None = cuda_session(
            str(artifact.path), session_options(options, artifact.session_config)
        )

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """See `engines.base.Engine.run`."""
        session = self._open()
        binding = session.io_binding()
        try:
            for name, array in feeds.items():
                binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0))
            for spec in self.outputs:
                binding.bind_output(spec.name, "cuda", 0)
            session.run_with_iobinding(binding)
            answers = binding.copy_outputs_to_cpu()
        except OrtFailure as error:
            raise EngineError(f"ONNX Runtime failed on {self._path.name}: {error}") from error
        return dict(zip((spec.name for spec in self.outputs), answers, strict=True))

    def facts(self) -> dict[str, Any]:
        """See `engines.base.Engine.facts`."""
        return {**live_facts(self._open()), "device": "cuda:0"}

    def close(self) -> None:
        """See `engines.base.Engine.close`."""
        self._session = None

    def _open(self) -> ort.InferenceSession:
        if self._session is None:
            raise EngineError(f"the engine of {self._path} is closed; open it again")
        return self._session


def certify_cuda(artifact: Artifact, options: EngineOptions, feeds: Mapping[str, Array]) -> Certificate:
    """An `engines.certificate.Certify`: what ran on the GPU."""
    return certificate_on(CUDA, cuda_session, artifact, options, feeds)


def open_cuda(artifact: Artifact, options: EngineOptions) -> OrtCudaEngine:
    """An engine on ONNX Runtime's CUDA provider."""
    return OrtCudaEngine(artifact, options)
