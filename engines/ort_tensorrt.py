"""TensorRT inside ONNX Runtime: it gives TensorRT the parts of the graph that it takes, and CUDA the rest.

It says neither which kernels TensorRT chose nor in which precision they ran, so its certificate proves nothing; the
engine ``tensorrt`` has an inspector that does.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping
from pathlib import Path

import onnxruntime as ort

from engines.artifact import Artifact
from engines.base import Array, EngineOptions, EngineUnavailable, refuse_options
from engines.certificate import Certificate, layer_proof
from engines.cuda.engine import RingEngine
from engines.cuda.transfers import Stream, Transfers, transfers_named
from engines.macs import layers_from_onnx
from engines.ort_cuda import on_stream
from engines.ort_network import OrtNetwork

TENSORRT = "TensorrtExecutionProvider"
LIBRARY = Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_tensorrt.so"


def needed_library(provider: Path) -> str:
    """The file name of the TensorRT that a provider was linked to, such as "libnvinfer.so.10".

    Raises:
        EngineUnavailable: there is no such provider, or it needs no TensorRT.
    """
    found = re.search(rb"libnvinfer\.so\.\d+", provider.read_bytes()) if provider.is_file() else None
    if found is None:
        raise EngineUnavailable(f"this ONNX Runtime {ort.__version__} comes without {TENSORRT}")
    return found.group().decode()


def check_library(soname: str) -> None:
    """See that a library can be loaded.

    Raises:
        EngineUnavailable: it cannot; the message names the TensorRT that has it.
    """
    major = int(soname.rsplit(".", 1)[1])
    try:
        ctypes.CDLL(soname)
    except OSError as error:
        raise EngineUnavailable(
            f"engine 'ort-tensorrt': ONNX Runtime {ort.__version__} was linked to TensorRT {major} ({soname}), which "
            f"cannot be loaded: {error}. In an environment of its own: pip install 'tensorrt>={major},<{major + 1}', "
            f"with its folder in LD_LIBRARY_PATH"
        ) from error


if TENSORRT not in ort.get_available_providers():
    raise EngineUnavailable(
        f"engine 'ort-tensorrt' needs an ONNX Runtime with {TENSORRT}; this one has "
        f"{', '.join(ort.get_available_providers())}. In a new environment: pip install 'qharness[gpu]'"
    )
check_library(needed_library(LIBRARY))


def certify_tensorrt(artifact: Artifact, options: EngineOptions, feeds: Mapping[str, Array]) -> Certificate:
    """An `engines.certificate.Certify` that can prove nothing, and says why."""
    del options, feeds
    reason = "ONNX Runtime does not say which kernels TensorRT chose; build the file for the engine 'tensorrt' to see"
    layers = tuple(layer_proof(layer, None, (), reason) for layer in layers_from_onnx(artifact.path))
    evidence = {"runtime": f"onnxruntime {ort.__version__}", "provider": TENSORRT, "artifact_sha256": artifact.sha256}
    return Certificate(layers, {}, evidence)


def open_tensorrt(artifact: Artifact, options: EngineOptions) -> RingEngine:
    """An engine on ONNX Runtime's TensorRT provider. Opening it builds the engine, which may take minutes.

    Raises:
        EngineUnavailable: no driver, no device, or a library is missing.
        EngineError: the model or an option is refused.
    """
    refuse_options("ONNX Runtime's TensorRT provider", options, {"cuda_graph": False, "integer_kernels": True})

    def open_network(transfers: Transfers, stream: Stream) -> OrtNetwork:
        # Explicit Q/DQ needs the permission to use INT8, and no table of ranges.
        ours = {
            "device_id": "0",
            "user_compute_stream": str(transfers.handle(stream)),
            "trt_int8_enable": "1" if artifact.quantised else "0",
        }
        return OrtNetwork(artifact, options, ((TENSORRT, ours), on_stream(transfers, stream)))

    return RingEngine(artifact, transfers_named(options.transfers), open_network)
