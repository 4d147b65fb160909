"""TensorRT inside ONNX Runtime: it gives TensorRT the parts of the graph that it takes, and CUDA the rest.

It says neither which kernels TensorRT chose nor in which precision they ran, so its certificate proves nothing; the
engine ``tensorrt`` has an inspector that does.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnxruntime as ort

from engines.artifact import Artifact
from engines.base import Array, EngineOptions, EngineUnavailable, refuse_options
from engines.building import DEFAULT_BATCH
from engines.certificate import Certificate, layer_proof
from engines.cuda.engine import RingEngine
from engines.cuda.transfers import Stream, Transfers, transfers_named
from engines.macs import layers_from_onnx
from engines.ort_network import OrtNetwork, on_stream
from engines.trt.presence import provider_sonames
from engines.trt.provider import load_libraries, profile_options

TENSORRT = "TensorrtExecutionProvider"

if TENSORRT not in ort.get_available_providers():
    raise EngineUnavailable(
        f"engine 'ort-tensorrt' needs an ONNX Runtime with {TENSORRT}; this one has "
        f"{', '.join(ort.get_available_providers())}. In a new environment: pip install 'qharness[gpu]'"
    )


# ONNX Runtime brings the libraries of CUDA and cuDNN from 1.21 on, and TensorRT's name them.
if hasattr(ort, "preload_dlls"):
    ort.preload_dlls()
load_libraries(provider_sonames())


def certify_tensorrt(artifact: Artifact, options: EngineOptions, feeds: Mapping[str, Array]) -> Certificate:
    """An `engines.certificate.Certify` that can prove nothing, and says why."""
    del options, feeds
    reason = "ONNX Runtime does not say which kernels TensorRT chose; build the file for the engine 'tensorrt' to see"
    layers = tuple(layer_proof(layer, None, (), reason) for layer in layers_from_onnx(artifact.path))
    evidence = {"runtime": f"onnxruntime {ort.__version__}", "provider": TENSORRT, "artifact_sha256": artifact.sha256}
    return Certificate(layers, {}, evidence)


def open_tensorrt(artifact: Artifact, options: EngineOptions) -> RingEngine:
    """An engine on ONNX Runtime's TensorRT provider.

    It builds when it is opened, for batches of `DEFAULT_BATCH` where the model takes any: no call pays for it. That may
    take minutes, and nothing is kept: ONNX Runtime knows its own plans by the names in the graph, not by the weights.

    Raises:
        EngineUnavailable: no driver, no device, or a library is missing.
        EngineError: the model or an option is refused.
    """
    refuse_options("ONNX Runtime's TensorRT provider", options, {"cuda_graph": False, "integer_kernels": True})

    batch = DEFAULT_BATCH if artifact.fixed_batch is None else None

    def open_network(transfers: Transfers, stream: Stream) -> OrtNetwork:
        # Explicit Q/DQ needs the permission to use INT8, and no table of ranges.
        ours = {
            "device_id": "0",
            "user_compute_stream": str(transfers.handle(stream)),
            "trt_int8_enable": "1" if artifact.quantised else "0",
            **(profile_options(artifact, batch) if batch else {}),
        }
        return OrtNetwork(artifact, options, ((TENSORRT, ours), on_stream(transfers, stream)), batch)

    return RingEngine(artifact, transfers_named(options.transfers), open_network)
