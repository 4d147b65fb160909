"""A processor that saturates 8-bit products is warned of, where the file's weights make that happen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from engines.base import EngineOptions
from harness.checks import check_saturation
from harness.prepare import Contender
from harness.recipe import Recipe
from harness.report.build import Report
from tests.engines.quantised import quantised_artifact
from tests.engines.tiny import tiny_artifact


def contender(folder: Path, version: str) -> Contender:
    return Contender("ort-cpu", version, quantised_artifact(folder), EngineOptions())


@pytest.mark.parametrize("kernel", ["AVX2", "AVX512"])
def test_large_weights_on_kernels_that_saturate_are_a_warning(tmp_path: Path, kernel: str) -> None:
    ours = contender(tmp_path, "integer")
    (finding,) = check_saturation([ours], {ours.name: kernel})
    assert (finding.check, finding.severity) == ("saturation", "warning")
    assert f"ort-cpu:integer runs on kernels of class {kernel}" in finding.message
    assert "3 layers of quantised.onnx (100 % of the multiply-accumulates)" in finding.message
    assert "--weight-bits 7" in finding.message


@pytest.mark.parametrize(
    ("version", "kernel"),
    [("integer", "AVX512-VNNI"), ("integer", "SSE4"), ("integer", "sm_90"), ("simulated", "AVX2")],
)
def test_other_kernels_and_versions_are_not(tmp_path: Path, version: str, kernel: str) -> None:
    ours = contender(tmp_path, version)
    assert check_saturation([ours], {ours.name: kernel}) == []


def test_file_without_large_weights_is_not(tmp_path: Path) -> None:
    ours = replace(contender(tmp_path, "integer"), artifact=tiny_artifact(tmp_path))
    assert check_saturation([ours], {ours.name: "AVX2"}) == []


def test_server_answers_for_a_haswell_with_the_same_file(
    qemu: None, small: Recipe, run_recipe: Callable[..., Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporters.targets.kernel_class", lambda: "AVX512-VNNI")
    recipe = replace(small, engines=("ort-cpu:integer", "ort-haswell:integer"), noise=("clean",), limit=4)
    report = run_recipe(recipe)
    here, there = (report.contenders[f"{engine}:integer"] for engine in ("ort-cpu", "ort-haswell"))
    assert here["sha256"] == there["sha256"]
    assert there["facts"]["kernel_class"] == "AVX2"
    assert report.certificates["ort-haswell:integer"]["evidence"]["kernel_class"] == "AVX2"
    assert report.certificates["ort-haswell:integer"]["integer_fraction"] == 1.0
    assert report.failed_pictures == 0
    (finding,) = [each for each in report.findings if each["check"] == "saturation" and "haswell" in each["message"]]
    assert finding["severity"] == "warning"
