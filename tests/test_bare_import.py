"""A bare install: everything imports and `doctor` speaks, with no engine and no extra there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

# Refuses every package beyond the base, as if it were not installed.
BLOCK = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name.split('.')[0])
sys.meta_path.insert(0, Refuse())
"""
EXTRAS = ("onnxruntime", "torch", "torchvision", "tensorrt", "pycuda", "ray", "openvino", "scipy", "timm", "onnxscript")


def run_blocked(code: str, blocked: tuple[str, ...] = EXTRAS) -> subprocess.CompletedProcess[str]:
    script = BLOCK.format(blocked=blocked) + code
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)


def test_every_package_imports_without_extras() -> None:
    done = run_blocked("import harness, exporters, engines, noise, benchmarks, harness.cli, exporters.int4_options")
    assert done.returncode == 0, done.stderr


def test_doctor_names_the_extra_that_is_missing() -> None:
    done = run_blocked("from harness.cli import main; sys.exit(main(['doctor']))")
    assert done.returncode == 0, done.stderr
    assert "qharness[cpu]" in done.stdout


def test_a_run_without_an_engine_is_refused_with_the_extra(tmp_path: Path) -> None:
    code = f"from harness.cli import main; sys.exit(main(['demo', '-o', {str(tmp_path / 'run')!r}]))"
    done = run_blocked(code)
    assert done.returncode == 2
    assert "pip install 'qharness[cpu]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_part_of_an_installed_package_is_not_taken_for_the_package() -> None:
    code = (
        "from harness.registry import import_target\n"
        "try:\n    import_target('step', 'noise.no_such_module:thing', 'cpu')\n"
        "except ModuleNotFoundError as error:\n    print('its own error:', error.name)\n"
    )
    assert "its own error: noise.no_such_module" in run_blocked(code).stdout
