"""A stranger called `noise` on the path is found out and named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from harness.shadow import PACKAGES, check_one_home

ROOT = Path(__file__).parent.parent


def test_all_packages_come_from_one_folder() -> None:
    assert check_one_home() is None
    assert set(PACKAGES) == {"harness", "exporters", "engines", "noise", "benchmarks"}


def test_a_shadowing_distribution_stops_the_command_line_with_advice(tmp_path: Path) -> None:
    stranger = tmp_path / "noise"
    stranger.mkdir()
    (stranger / "__init__.py").write_text("pnoise1 = None\n")
    done = subprocess.run(
        [sys.executable, "-c", "import harness.cli"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "pip uninstall noise" in done.stderr
    assert "Traceback" not in done.stderr
