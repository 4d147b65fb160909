"""Environment: what else a result depends on. Libraries decode and round differently from version to version."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from PIL import features

from engines.cpu import kernel_class, processor_name
from noise.corruptions import VERSION

LIBRARIES = (
    "qharness",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "av",
    "simplejpeg",
    "torch",
    "torchvision",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
)


def environment() -> dict[str, Any]:
    """Versions and hardware that a result depends on, as JSON.

    The JPEG library under Pillow is named because it decides pixels: IJG and libjpeg-turbo decode the same file
    differently.
    """
    return {
        "code": code_fingerprint(),
        "corruptions": VERSION,
        "libraries": {name: installed for name in LIBRARIES if (installed := installed_version(name))},
        "jpeg": jpeg_library(),
        "machine": platform.machine(),
        "processor": processor_name(),
        "kernel_class": kernel_class(),
        "python": platform.python_version(),
    }


def jpeg_library() -> str:
    """The JPEG library under Pillow; libjpeg-turbo by its own version, ``jpg`` is that of the interface it keeps."""
    turbo = features.version("libjpeg_turbo")
    return f"libjpeg-turbo {turbo}" if turbo else f"libjpeg {features.version('jpg')}"


def code_fingerprint() -> str:
    """A hash over the project's own source: an edited checkout is another program under the same version."""
    home = Path(__file__).parent.parent
    digest = hashlib.blake2b(digest_size=8)
    for package in ("engines", "exporters", "harness", "noise"):
        for path in sorted((home / package).rglob("*.py")):
            digest.update(path.relative_to(home).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution, or ``None``."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
