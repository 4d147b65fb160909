"""The GPU: what is known of it, and how to ask the driver for it, without a package for CUDA.

TensorRT does not say which GPU it uses, and without a driver it ends the process (seen with 8.6: a segmentation fault),
so the driver's own library is asked first. It is there wherever a driver is, on a Jetson too.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.base import EngineUnavailable

DRIVER_LIBRARY = "libcuda.so.1"

# Numbers of CUdevice_attribute in cuda.h.
_MAJOR, _MINOR = 75, 76
_NAME_BYTES = 256
_KERNEL_MODULE = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Device:
    """One GPU and its driver.

    Args:
        name: as the driver gives it: "NVIDIA H100 80GB HBM3".
        compute_capability: "9.0".
        cuda: the newest CUDA that the driver knows: "13.0".
        driver: version of the driver, or ``None`` where the system does not say, as on a Jetson.
    """

    name: str
    compute_capability: str
    cuda: str
    driver: str | None


def version_from_number(number: int) -> str:
    """A version of CUDA as people write it.

    >>> version_from_number(12080)
    '12.8'
    """
    return f"{number // 1000}.{number % 1000 // 10}"


def first_device(open_library: Callable[[str], Any] = ctypes.CDLL, kernel_module: Path = _KERNEL_MODULE) -> Device:
    """The GPU that CUDA calls 0.

    Raises:
        EngineUnavailable: there is no driver, no GPU, or the two do not work together.
    """
    try:
        cuda = open_library(DRIVER_LIBRARY)
    except OSError as error:
        raise EngineUnavailable(
            f"there is no NVIDIA driver here: {DRIVER_LIBRARY} cannot be opened ({error}). Install the driver; in a "
            f"container, start it with the GPU (--gpus all)"
        ) from error
    _call(cuda, "cuInit", 0)
    count = ctypes.c_int()
    _call(cuda, "cuDeviceGetCount", ctypes.byref(count))
    if not count.value:
        raise EngineUnavailable("the NVIDIA driver sees no GPU; is one hidden by CUDA_VISIBLE_DEVICES?")
    device, version = ctypes.c_int(), ctypes.c_int()
    _call(cuda, "cuDeviceGet", ctypes.byref(device), 0)
    name = ctypes.create_string_buffer(_NAME_BYTES)
    _call(cuda, "cuDeviceGetName", name, _NAME_BYTES, device)
    capability = [ctypes.c_int(), ctypes.c_int()]
    for value, attribute in zip(capability, (_MAJOR, _MINOR), strict=True):
        _call(cuda, "cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
    _call(cuda, "cuDriverGetVersion", ctypes.byref(version))
    return Device(
        name=name.value.decode(errors="replace"),
        compute_capability=".".join(str(value.value) for value in capability),
        cuda=version_from_number(version.value),
        driver=driver_version(kernel_module),
    )


def _call(cuda: Any, function: str, *arguments: Any) -> None:
    code = getattr(cuda, function)(*arguments)
    if code:
        text = ctypes.c_char_p()
        cuda.cuGetErrorString(code, ctypes.byref(text))
        meaning = text.value.decode(errors="replace") if text.value else "no text"
        raise EngineUnavailable(
            f"the NVIDIA driver refuses {function}: error {code}, {meaning}. Does nvidia-smi run? After an update "
            f"of the driver, reboot"
        )


def driver_version(kernel_module: Path = _KERNEL_MODULE) -> str | None:
    """The version of the driver, or ``None`` where the system does not say."""
    if not kernel_module.is_file():
        return None
    found = re.search(r"\b\d+\.\d+(\.\d+)?\b", kernel_module.read_text())
    return found.group() if found else None
