"""What ``doctor`` says of TensorRT, found without loading it."""

from __future__ import annotations

import ctypes
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from engines.base import EngineUnavailable
from engines.cuda.device import Device
from engines.trt import presence
from engines.trt.presence import libraries, presence_lines, provider_lines, provider_soname, provider_sonames
from engines.trt.provider import load_libraries


def missing_gpu() -> Device:
    raise EngineUnavailable("there is no NVIDIA driver here")


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for packages, and nothing of TensorRT in the system."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(presence.ctypes.util, "find_library", lambda name: None)
    return tmp_path


def put(packages: Path, file: str, content: bytes = b"") -> None:
    path = packages / file
    path.parent.mkdir(parents=True, exist_ok=True)
    (packages / file.split("/", maxsplit=1)[0] / "__init__.py").touch()
    path.write_bytes(content)


def test_a_machine_without_a_gpu_hears_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "tensorrt_version", lambda: None)
    lines = presence_lines(missing_gpu)
    assert lines[0] == "GPU: there is no NVIDIA driver here"
    assert lines[1].startswith("TensorRT: not installed; pip install 'qharness[tensorrt]'")


def test_a_machine_with_one_hears_what_it_has(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "tensorrt_version", lambda: "11.4.0.106")
    put(packages, "tensorrt_libs/libnvinfer.so.11")
    lines = presence_lines(lambda: Device("NVIDIA Double 9000", "9.0", "13.0", "580.95.05"))
    assert lines[0] == "GPU: NVIDIA Double 9000, compute capability 9.0, CUDA 13.0, driver 580.95.05"
    assert lines[1] == "TensorRT: 11.4.0.106, with libnvinfer.so.11"
    jetson = presence_lines(lambda: Device("Orin", "8.7", "12.6", None))
    assert jetson[0].endswith("a driver of unknown version")


def test_the_provider_says_which_library_it_was_linked_with(packages: Path) -> None:
    assert libraries() == ()
    put(
        packages, "onnxruntime/capi/libonnxruntime_providers_tensorrt.so", b"\x7fELF..libnvinfer.so.10\0libcudnn.so.9\0"
    )
    assert provider_soname() == "libnvinfer.so.10"
    (packages / "onnxruntime/capi/libonnxruntime_providers_tensorrt.so").write_bytes(b"\x7fELF, linked with nothing")
    assert provider_soname() is None


def test_libraries_of_the_provider_are_loaded_from_where_a_wheel_puts_them(packages: Path) -> None:
    """The loader looks into no package, and `ctypes` asks it by the name alone."""
    provider = b"libnvonnxparser.so.10\0libcudnn.so.9\0libnvinfer.so.10\0libnvinfer_plugin.so.10\0"
    put(packages, "onnxruntime/capi/libonnxruntime_providers_tensorrt.so", provider)
    names = ("libnvinfer.so.10", "libnvinfer_plugin.so.10", "libnvonnxparser.so.10")
    assert provider_sonames() == names
    for name in names[:2]:
        put(packages, f"tensorrt_libs/{name}")
    opened: list[tuple[str, int]] = []
    load_libraries(names, open_library=lambda file, mode: opened.append((file, mode)))
    places = [str(packages / "tensorrt_libs" / name) for name in names[:2]]
    assert opened == [(place, ctypes.RTLD_GLOBAL) for place in (*places, names[2])]


def test_library_that_is_here_and_cannot_be_loaded_is_told_from_one_that_is_missing(packages: Path) -> None:
    put(packages, "tensorrt_libs/libnvinfer.so.10", b"no library at all")
    with pytest.raises(EngineUnavailable, match=r"tensorrt_libs/libnvinfer\.so\.10 is here, but cannot be loaded: .*"):
        load_libraries(["libnvinfer.so.10"])
    with pytest.raises(EngineUnavailable, match=r"needs libnvinfer\.so\.9, here is libnvinfer\.so\.10: install"):
        load_libraries(["libnvinfer.so.9"])


def test_a_provider_without_its_library_is_told_which_to_install() -> None:
    assert provider_lines(None, ("libnvinfer.so.11",)) == []
    assert provider_lines("libnvinfer.so.10", ("libnvinfer.so.10",)) == [
        "ONNX Runtime's TensorRT provider: libnvinfer.so.10 is here"
    ]
    (line,) = provider_lines("libnvinfer.so.10", ("libnvinfer.so.11",))
    assert "needs libnvinfer.so.10, here is libnvinfer.so.11" in line
    assert "pip install 'tensorrt==10.*'" in line


def test_the_version_is_that_of_whichever_distribution_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "tensorrt-cu13":
            return "11.4.0.106"
        raise PackageNotFoundError(name)

    monkeypatch.setattr(presence, "version", version)
    assert presence.tensorrt_version() == "11.4.0.106"
    monkeypatch.setattr(presence, "DISTRIBUTIONS", ("tensorrt",))
    assert presence.tensorrt_version() is None
