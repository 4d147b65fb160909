"""Peers: what others install, in virtual environments of their own below ``.venv-peers``, made on first use."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

HOME = Path(__file__).parent.parent / ".venv-peers"

# name -> (what to install, the Python that has wheels of all of it; None: this one)
PEERS: Mapping[str, tuple[Sequence[str], str | None]] = {
    "imagecorruptions 1.1.2": (
        ("imagecorruptions==1.1.2", "numpy<2", "scikit-image<0.20", "setuptools<81"),
        "python3.10",
    ),
    "imagecorruptions-imaug 1.1.5": (("imagecorruptions-imaug==1.1.5",), None),
}


def installed(*also: str) -> list[str]:
    """The peers that can run here; makes their environments where they are missing.

    Args:
        also: packages that they need beside their own.
    """
    return [name for name in PEERS if _complete(name, also)]


def python_of(name: str) -> str:
    """The interpreter of a peer's environment."""
    return str(HOME / name / "bin" / "python")


def _complete(name: str, also: Sequence[str]) -> bool:
    requirements, wanted = PEERS[name]
    if not Path(python_of(name)).exists():
        python = shutil.which(wanted) if wanted else sys.executable
        if python is None:
            print(f"{name} is left out: it needs {wanted}, which is not on the path")
            return False
        subprocess.run([python, "-m", "venv", str(HOME / name)], check=True)
        _install(name, requirements)
    missing = [package for package in also if not _has(name, package)]
    if missing:
        _install(name, [*requirements, *missing])
    return True


def _has(name: str, package: str) -> bool:
    found = subprocess.run([python_of(name), "-c", f"import {package}"], check=False, capture_output=True)
    return found.returncode == 0


def _install(name: str, requirements: Sequence[str]) -> None:
    subprocess.run([python_of(name), "-m", "pip", "install", "--quiet", *requirements], check=True)
