"""Fixtures that every test may use, and ``--require``, which turns a skip into a failure."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

import pytest
from hypothesis import settings

from engines.base import EngineUnavailable
from harness.registry import STEP_TABLE
from noise import STEPS
from noise.base import MissingData, Unavailable
from noise.corruptions import overlays

# The machines that test are shared: no test fails for the time that it takes.
settings.register_profile("without a clock", deadline=None)
settings.load_profile("without a clock")

REQUIREMENTS = (
    "data",
    "chromium",
    "cuda",
    "decoders",
    "magick",
    "ort-gpu",
    "pycuda",
    "qemu",
    "stubs",
    "tensorrt",
    "torch",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require",
        default="",
        metavar="NAMES",
        help=f"fail instead of skipping where these are missing: {', '.join(REQUIREMENTS)} (with commas)",
    )


def pytest_configure(config: pytest.Config) -> None:
    unknown = {name for name in config.getoption("--require").split(",") if name} - set(REQUIREMENTS)
    if unknown:
        raise pytest.UsageError(f"--require takes {', '.join(REQUIREMENTS)}; got {', '.join(sorted(unknown))}")


def missing(request: pytest.FixtureRequest, name: str, reason: str) -> None:
    """Skip with the reason, or fail where ``--require`` names what is missing."""
    if name in request.config.getoption("--require").split(","):
        pytest.fail(f"--require={name}, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def real_data(request: pytest.FixtureRequest) -> Path:
    """The folder with real photographs and pretrained models."""
    folder = os.environ.get("QHARNESS_DATA", "")
    if not folder:
        missing(request, "data", "QHARNESS_DATA does not name a folder with real pictures and models")
    if not Path(folder).is_dir():
        missing(request, "data", f"QHARNESS_DATA names {folder}, which is no folder")
    return Path(folder)


@pytest.fixture(scope="session")
def full_stubs(request: pytest.FixtureRequest) -> Path:
    """The folder with the whole signatures of each version of TensorRT, read from its bindings."""
    folder = os.environ.get("QHARNESS_STUBS", "")
    if not folder or not Path(folder).is_dir():
        missing(request, "stubs", f"QHARNESS_STUBS names no folder with TensorRT's signatures; got {folder!r}")
    return Path(folder)


@pytest.fixture(scope="session")
def frost_overlays(request: pytest.FixtureRequest) -> None:
    """ImageNet-C's photographs of frost, beside the real data or in the installed ``imagecorruptions``."""
    folder = Path(os.environ.get("QHARNESS_DATA", "")) / "frost"
    if folder.is_dir():
        overlays.use_folder(folder)
    try:
        overlays.published()
    except MissingData as error:
        missing(request, "data", str(error))


@pytest.fixture(autouse=True)
def _needs_overlays(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("needs_overlays"):
        request.getfixturevalue("frost_overlays")


@pytest.fixture(autouse=True)
def _needs_row(request: pytest.FixtureRequest) -> None:
    for mark in request.node.iter_markers("needs_row"):
        (row,) = mark.args
        try:
            factory = STEP_TABLE.resolve(row)
            if row == "decode.nvjpeg":
                factory()
        except EngineUnavailable as error:
            missing(request, STEPS[row].extra or "", str(error))
        except Unavailable as error:
            missing(request, "gpu", str(error))


@pytest.fixture(scope="session")
def chromium(request: pytest.FixtureRequest) -> str:
    """The path of a Chromium that runs without a screen."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        missing(request, "chromium", "no Chromium is installed: apt-get install chromium")
    return str(found)


@pytest.fixture(scope="session")
def qemu(request: pytest.FixtureRequest) -> None:
    """QEMU's user-mode emulation of x86-64 processors, on such a processor."""
    if platform.machine() not in ("x86_64", "AMD64"):
        missing(request, "qemu", f"emulated processors run this machine's own Python, for {platform.machine()}")
    if not (shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")):
        missing(request, "qemu", "QEMU's user-mode emulation is not installed: apt-get install qemu-user")
