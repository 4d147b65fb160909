"""ONNX Runtime on an NVIDIA GPU. It has no integer convolution: a Q/DQ network runs there mostly in float."""

from __future__ import annotations

from collections.abc import Mapping

import onnxruntime as ort

from engines.artifact import Artifact
from engines.base import Array, EngineOptions, EngineUnavailable, refuse_options
from engines.certificate import Certificate
from engines.cuda.engine import RingEngine
from engines.cuda.transfers import transfers_named
from engines.ort_certificate import certificate_on
from engines.ort_network import CUDA, CUDA_OPTIONS, OrtNetwork, on_stream, session_on

# At the top, as a missing package would be: the registry says why before anything was calibrated.
if CUDA not in ort.get_available_providers():
    raise EngineUnavailable(
        f"engine 'ort-cuda' needs an ONNX Runtime with {CUDA}; this one has "
        f"{', '.join(ort.get_available_providers())}. In a new environment: pip install 'qharness[gpu]'"
    )


def certify_cuda(artifact: Artifact, options: EngineOptions, feeds: Mapping[str, Array]) -> Certificate:
    """An `engines.certificate.Certify`: what ran on the GPU."""

    def open_session(model: bytes, settings: ort.SessionOptions) -> ort.InferenceSession:
        return session_on(model, settings, ((CUDA, CUDA_OPTIONS),))

    return certificate_on(CUDA, open_session, artifact, options, feeds)


def open_cuda(artifact: Artifact, options: EngineOptions) -> RingEngine:
    """An engine on ONNX Runtime's CUDA provider.

    Raises:
        EngineUnavailable: no driver, no device, or a library is missing.
        EngineError: the model or an option is refused.
    """
    refuse_options("ONNX Runtime's CUDA provider", options, {"cuda_graph": False})
    return RingEngine(
        artifact,
        transfers_named(options.transfers),
        lambda transfers, stream: OrtNetwork(artifact, options, (on_stream(transfers, stream),)),
    )
