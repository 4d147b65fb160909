"""Environment: what else a result depends on. Libraries decode and round differently from version to version."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from PIL import features

from engines.cpu import kernel_class, processor_name

LIBRARIES = ("qharness", "numpy", "opencv-python-headless", "pillow", "onnx", "onnxruntime", "onnxruntime-gpu")


def environment() -> dict[str, Any]:
    """Versions and hardware that a result depends on, as JSON.

    The JPEG library under Pillow is named because it decides pixels: IJG and libjpeg-turbo decode the same file
    differently.
    """
    return {
        "libraries": {name: installed for name in LIBRARIES if (installed := installed_version(name))},
        "jpeg": f"{'libjpeg-turbo' if features.check('libjpeg_turbo') else 'libjpeg'} {features.version('jpg')}",
        "machine": platform.machine(),
        "processor": processor_name(),
        "kernel_class": kernel_class(),
        "python": platform.python_version(),
    }


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution, or ``None``."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
