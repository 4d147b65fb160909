"""Names become functions; plug-ins add names and cannot take one over."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engines import ENGINES, FORMATS, Entry
from engines.artifact import ArtifactError, sidecar_path
from engines.base import EngineUnavailable
from harness.doctor import availability, clashes
from harness.errors import HarnessError
from harness.mismatch import mismatch_recipe
from harness.plan import plan
from harness.recipe import Recipe
from harness.registry import (
    ENGINE_TABLE,
    NOISE_TABLE,
    STEP_TABLE,
    artifact_from_model,
    engines_for,
    noise_settings,
    step_function,
)
from noise.base import Step
from tests.engines.litert.files import write_tflite
from tests.engines.tiny import write_tiny

PLUGIN = """
import numpy as np
from noise.base import Step, severities

SWAPS = {"half": Step("normalise", "float16", {})}
SETTINGS = severities("rain", {"drops": 1}, {"drops": 9})

def rain(*, drops):
    def apply(picture, rng):
        wet = picture.copy()
        wet[rng.integers(0, len(wet), drops)] = 255
        return wet
    return apply
"""


def install(folder: Path, *points: str) -> None:
    """A distribution with entry points, as pip would leave it."""
    (folder / "rain_plugin.py").write_text(PLUGIN)
    info = folder / "rain_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rain-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("\n".join(points) + "\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("rain_plugin", None)


def test_a_plugin_adds_a_noise_that_runs(site: Path, small: Recipe) -> None:
    install(
        site,
        "[qharness.noises]",
        "rain = rain_plugin:SETTINGS",
        "[qharness.steps]",
        "sensor.rain = rain_plugin:rain",
    )
    assert "rain" in NOISE_TABLE.names()
    step = noise_settings("rain")["2"]
    assert step == Step("sensor", "rain", {"drops": 9})
    assert step is not None
    wet = step_function(step)(np.zeros((32, 32, 3), np.uint8), np.random.default_rng(0))
    assert wet.max() == 255
    assert [c.name for c in plan(replace(small, noise=("rain",))).conditions] == ["rain:1", "rain:2"]


def test_a_swap_of_a_plugin_is_ranked_like_any_other_and_its_corruptions_are_not(site: Path, small: Recipe) -> None:
    install(site, "[qharness.noises]", "rain = rain_plugin:SETTINGS", "dim = rain_plugin:SWAPS")
    assert mismatch_recipe(small).noise[-1] == "dim"
    assert mismatch_recipe(small, ("dim:half",)).noise == ("clean", "dim:half")
    with pytest.raises(HarnessError, match=r"no swap of one step 'rain'.* rain is measured by qharness run"):
        mismatch_recipe(small, ("rain",))


def test_a_plugin_may_not_take_a_built_in_name(site: Path) -> None:
    install(site, "[qharness.noises]", "brightness = rain_plugin:SETTINGS")
    with pytest.raises(HarnessError, match=r"'brightness' is built in, but rain_plugin:SETTINGS claims the name"):
        noise_settings("brightness")


def test_a_broken_plugin_keeps_its_own_error(site: Path) -> None:
    install(site, "[qharness.noises]", "hail = rain_plugin:HAIL")
    with pytest.raises(AttributeError, match="HAIL"):
        noise_settings("hail")


@pytest.mark.parametrize("table", [ENGINE_TABLE, NOISE_TABLE, STEP_TABLE], ids=lambda table: str(table.what))
def test_every_row_names_something_that_is_there(table: object) -> None:
    for name, problem in availability(table).items():  # type: ignore[arg-type]
        helps = ("pip install 'qharness[", "apt-get install", "use an x86-64 machine")
        assert problem is None or any(each in problem for each in helps), f"{name}: {problem}"


def test_each_engine_of_onnx_runtime_on_a_gpu_gives_a_reason_of_its_own() -> None:
    problems = availability(ENGINE_TABLE)
    for name in ("ort-cuda", "ort-tensorrt"):
        problem = problems[name]
        assert problem is None or f"engine '{name}'" in problem


def test_doctor_survives_a_package_that_is_broken(monkeypatch: pytest.MonkeyPatch, site: Path) -> None:
    (site / "half_gone.py").write_text("import os\nos.capi\n")
    monkeypatch.setitem(ENGINES, "half", Entry("half_gone:open_it", "a double", "cpu", "half_gone:certify", "ort-cpu"))
    problem = availability(ENGINE_TABLE)["half"]
    assert problem is not None
    assert "cannot be imported: AttributeError" in problem


def test_doctor_knows_packages_that_break_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    assert clashes() == []
    monkeypatch.setattr("harness.doctor.installed_version", lambda name: "1.0")
    assert any("qharness[cpu] and qharness[gpu]" in line for line in clashes())


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_runs_on_an_engine(name: str) -> None:
    assert engines_for(name)


@pytest.mark.parametrize("name", ["onnx", "tflite"])
def test_a_model_that_its_sidecar_does_not_describe_is_read_only_when_it_is_trusted(name: str, tmp_path: Path) -> None:
    path = write_tiny(tmp_path) if name == "onnx" else write_tflite(tmp_path, "planes")
    sidecar_path(path).write_text(f'{{"sha256": "{"0" * 64}"}}')
    with pytest.raises(ArtifactError, match=r"is not the file that its sidecar tiny\..*\.json describes"):
        artifact_from_model(path)
    assert artifact_from_model(path, trust=True).format == name


def test_file_of_a_format_whose_package_is_missing_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [name for name in sys.modules if name.startswith("engines.litert")]:
        monkeypatch.delitem(sys.modules, module)
    for module in ("ai_edge_litert", "ai_edge_litert.interpreter"):
        monkeypatch.setitem(sys.modules, module, None)
    message = r"m\.tflite, a TensorFlow Lite file, needs the package '.*': pip install 'qharness\[litert\]'"
    with pytest.raises(EngineUnavailable, match=message):
        artifact_from_model(tmp_path / "m.tflite")


def test_engines_of_a_format_are_those_that_name_it() -> None:
    assert engines_for("tflite") == ("litert",)
    assert engines_for("plan") == ("tensorrt",)
    assert engines_for("onnx")[0] == "ort-cpu"
    assert "litert" not in engines_for("onnx")
