"""What of TensorRT is on this machine, found without loading it: a wrong mixture of libraries can end a process."""

from __future__ import annotations

import ctypes.util
import re
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from engines.base import EngineUnavailable
from engines.cuda.device import Device, first_device

# Distributions that carry the package, the newest first; the plain name points to one of the others, or is JetPack's.
DISTRIBUTIONS = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu13-bindings", "tensorrt-cu12-bindings")
# Packages that hold libnvinfer.
_HOMES = ("tensorrt_libs", "tensorrt")
_PROVIDER = "capi/libonnxruntime_providers_tensorrt.so"


def presence_lines(find_device: Callable[[], Device] = first_device) -> list[str]:
    """Lines for ``qharness doctor``: the GPU, TensorRT, and what ONNX Runtime's TensorRT provider wants."""
    return [_gpu(find_device), _tensorrt(), *provider_lines(provider_soname(), libraries())]


def _gpu(find_device: Callable[[], Device]) -> str:
    try:
        device = find_device()
    except EngineUnavailable as error:
        return f"GPU: {error}"
    driver = f"driver {device.driver}" if device.driver else "a driver of unknown version"
    return f"GPU: {device.name}, compute capability {device.compute_capability}, CUDA {device.cuda}, {driver}"


def _tensorrt() -> str:
    found = tensorrt_version()
    if found is None:
        return "TensorRT: not installed; pip install 'qharness[tensorrt]' installs it, on a Jetson JetPack does"
    return f"TensorRT: {found}, with {', '.join(libraries()) or 'no libnvinfer that can be found'}"


def tensorrt_version() -> str | None:
    """The version of the installed package, or ``None``."""
    for name in DISTRIBUTIONS:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def libraries() -> tuple[str, ...]:
    """The names of the ``libnvinfer`` that a program could load here: "libnvinfer.so.10"."""
    found = {path.name for home in _HOMES for path in _files_of(home, "libnvinfer.so.*")}
    system = ctypes.util.find_library("nvinfer")
    return tuple(sorted(found | ({system} if system else set())))


def library_file(soname: str) -> Path | None:
    """Where a package holds a library, or ``None``."""
    return next((path for home in _HOMES for path in _files_of(home, soname)), None)


def provider_sonames() -> tuple[str, ...]:
    """All libraries of TensorRT that the provider was linked with, ``libnvinfer`` first; empty where there is none."""
    library = next(_files_of("onnxruntime", _PROVIDER), None)
    found = re.findall(rb"libnv(?:infer|infer_plugin|onnxparser)\.so\.\d+", library.read_bytes()) if library else []
    return tuple(sorted({name.decode() for name in found}))


def provider_soname() -> str | None:
    """The ``libnvinfer`` that ONNX Runtime's TensorRT provider was linked with; ``None`` where there is no provider."""
    return next((name for name in provider_sonames() if name.startswith("libnvinfer.so.")), None)


def provider_lines(needed: str | None, present: tuple[str, ...]) -> list[str]:
    """What to do so that ONNX Runtime's TensorRT provider starts; empty where there is no such provider.

    Args:
        needed: what it was linked with.
        present: what is here.
    """
    if needed is None:
        return []
    major = needed.rsplit(".", 1)[1]
    if needed in present:
        return [f"ONNX Runtime's TensorRT provider: {needed} is here"]
    return [
        f"ONNX Runtime's TensorRT provider needs {needed}, here is {', '.join(present) or 'none'}: install TensorRT "
        f"{major} in an environment of its own, two versions cannot share one (pip install 'tensorrt=={major}.*')"
    ]


def _files_of(package: str, pattern: str) -> Iterator[Path]:
    """Files in an installed package, which is not imported."""
    for folder in sys.path:
        yield from sorted(Path(folder, package).glob(pattern))
