"""ONNX Runtime on an NVIDIA GPU. It has no integer convolution: a Q/DQ network runs there mostly in float."""

from __future__ import annotations

from collections.abc import Mapping

import onnxruntime as ort

from engines.artifact import Artifact
from engines.base import Array, EngineOptions, EngineUnavailable, refuse_options
from engines.certificate import Certificate
from engines.cuda.engine import RingEngine
from engines.cuda.transfers import Stream, Transfers, transfers_named
from engines.ort_certificate import certificate_on
from engines.ort_network import OrtNetwork, Provider, session_on

CUDA = "CUDAExecutionProvider"

# At the top, as a missing package would be: the registry says why before anything was calibrated.
if CUDA not in ort.get_available_providers():
    raise EngineUnavailable(
        f"engine 'ort-cuda' needs an ONNX Runtime with {CUDA}; this one has "
        f"{', '.join(ort.get_available_providers())}. In a new environment: pip install 'qharness[gpu]'"
    )


# Float layers in all of float32; and kernels chosen by rule, because a race between them may end in another way each
# time, and with it the answers.
OPTIONS = {"device_id": "0", "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}


def on_stream(transfers: Transfers, stream: Stream) -> Provider:
    """The provider that gives its kernels to a stream of ours."""
    return CUDA, {**OPTIONS, "user_compute_stream": str(transfers.handle(stream))}


def certify_cuda(artifact: Artifact, options: EngineOptions, feeds: Mapping[str, Array]) -> Certificate:
    """An `engines.certificate.Certify`: what ran on the GPU."""

    def open_session(model: bytes, settings: ort.SessionOptions) -> ort.InferenceSession:
        return session_on(model, settings, ((CUDA, OPTIONS),))

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
