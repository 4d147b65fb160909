"""The GPU, asked of the driver: against a double of its library, for there is no driver to rely on."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest

from engines.base import EngineUnavailable
from engines.cuda.device import Device, first_device


class DriverDouble:
    """A libcuda with one GPU, or with an error."""

    def __init__(self, count: int = 1, error: int = 0) -> None:
        self.count, self.error = count, error

    def __call__(self, name: str) -> DriverDouble:
        assert name == "libcuda.so.1"
        return self

    def cuInit(self, flags: int) -> int:  # noqa: N802 - the driver's names
        del flags
        return self.error

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = self.count
        return 0

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:  # noqa: N802
        device._obj.value = 7 + ordinal
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: ctypes.c_int) -> int:  # noqa: N802
        assert device.value == 7
        name.value = b"NVIDIA Double 9000"[: size - 1]
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: ctypes.c_int) -> int:  # noqa: N802
        assert device.value == 7
        value._obj.value = {75: 8, 76: 7}[attribute]
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802
        version._obj.value = 12060
        return 0

    def cuGetErrorString(self, code: int, text: Any) -> int:  # noqa: N802
        text._obj.value = b"no CUDA-capable device is detected" if code == 100 else None
        return 0


def test_the_driver_names_the_gpu(tmp_path: Path) -> None:
    version = tmp_path / "version"
    version.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release\nGCC 12.2.0\n")
    assert first_device(DriverDouble(), version) == Device("NVIDIA Double 9000", "8.7", "12.6", "580.95.05")


def test_a_jetson_does_not_say_its_drivers_version(tmp_path: Path) -> None:
    assert first_device(DriverDouble(), tmp_path / "none").driver is None


def test_no_driver_is_told_from_no_gpu() -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    with pytest.raises(EngineUnavailable, match=r"there is no NVIDIA driver here: libcuda.so.1 cannot be opened"):
        first_device(missing)
    with pytest.raises(EngineUnavailable, match="sees no GPU"):
        first_device(DriverDouble(count=0))


def test_an_error_of_the_driver_is_told_in_its_own_words() -> None:
    with pytest.raises(EngineUnavailable, match="refuses cuInit: error 100, no CUDA-capable device is detected"):
        first_device(DriverDouble(error=100))
    with pytest.raises(EngineUnavailable, match="error 999, no text"):
        first_device(DriverDouble(error=999))
