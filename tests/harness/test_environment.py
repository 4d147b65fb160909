"""What a run records of the machine that it ran on."""

from __future__ import annotations

import subprocess
import sys

from PIL import features

from harness.environment import environment


def test_jpeg_library_is_named_by_its_own_version() -> None:
    # Pillow's own report of itself says both; in it the version of libjpeg-turbo stands in its own name.
    told = subprocess.run([sys.executable, "-m", "PIL"], capture_output=True, text=True, check=True).stdout
    name, _, number = str(environment()["jpeg"]).partition(" ")
    line = next(each for each in told.splitlines() if "JPEG support" in each)
    assert number in line
    if features.check("libjpeg_turbo"):
        assert f"compiled for {name} {number}" in line
