"""The benchmark for a GPU, on a double without one: its rates mean nothing, but every part of it runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import pytest

from benchmarks import BENCHMARKS
from benchmarks.__main__ import main, markdown
from benchmarks.gpu import SIZE, Rates, figure, rates, write_pictures
from engines import ENGINES, Entry
from engines.base import EngineError, EngineUnavailable
from harness.recipe import Recipe
from harness.speed import Speed

FACTS = {"device": "a GPU", "runtime": "tensorrt 11", "cuda": "13.0", "driver": None, "transfers": "cuda-bindings 13"}


def test_every_part_of_the_line_is_measured(small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certify = "engines.ort_certificate:certify_cpu"
    row = Entry("tests.harness.test_page_lock:open_noting", "a double", "cpu", certify, "ort-cpu")
    monkeypatch.setitem(ENGINES, "ring", row)
    recipe = replace(small, engines=("ring:integer",), noise=("clean",))
    found = rates(recipe, tmp_path / "run", Speed(workers=1, callers=3, batch=8), 0.2)
    assert min(found.alone, found.fed, found.prepared, found.whole) > 0
    shown = markdown(figure(replace(found, facts={**FACTS, **found.facts}), 5.0))
    assert "a double without a device" in shown
    assert len(figure(replace(found, facts=FACTS), 5.0).rows) == 7


def test_rate_with_failures_in_it_is_none(small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certify = "engines.ort_certificate:certify_cpu"
    monkeypatch.setitem(ENGINES, "ring", Entry("tests.harness.doubles:Fragile", "a double", "cpu", certify, "ort-cpu"))
    recipe = replace(small, engines=("ring:fp32",), noise=("brightness:5",))
    with pytest.raises(EngineError, match=r"[1-9]\d* pictures of the run failed, so its rate means nothing"):
        rates(recipe, tmp_path / "run", Speed(workers=1, callers=1, batch=8), 0.2)


def test_too_few_cores_are_told_from_a_slow_line() -> None:
    slow = figure(Rates(alone=1000.0, fed=990.0, prepared=2000.0, whole=500.0, facts=FACTS), 5.0)
    assert "reaches 0.50 of the engine alone; wanted: 0.95." in slow.verdict
    assert "such cores" not in slow.verdict
    starved = figure(Rates(alone=1000.0, fed=990.0, prepared=500.0, whole=490.0, facts=FACTS), 5.0)
    assert "prepare 0.50 of what the engine takes" in starved.verdict
    ratios = [row["value"] for row in starved.rows if row["unit"] == ""]
    assert ratios == [0.49, 0.98]


def test_pictures_are_as_large_as_photographs(tmp_path: Path) -> None:
    written = sorted(write_pictures(tmp_path / "pictures", 2).glob("*/*.jpg"))
    assert len(written) == 2 * len({path.stat().st_ino for path in written})
    assert cv2.imread(str(written[0])).shape == (SIZE[1], SIZE[0], 3)


def test_benchmark_that_this_machine_cannot_run_is_skipped_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def refuse(name: str = "") -> None:
        raise EngineUnavailable("there is no NVIDIA driver here")

    assert "gpu" in BENCHMARKS
    monkeypatch.setattr("benchmarks.gpu.transfers_named", refuse)
    monkeypatch.setattr("benchmarks.__main__.RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["benchmarks", "gpu"])
    assert main() == 2
    assert "gpu: skipped, nothing was measured: there is no NVIDIA driver here" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
