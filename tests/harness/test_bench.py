"""Bench: numbers from real queries, judged as MLPerf judges, with intervals that hold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engines import ENGINES, Entry
from engines.base import EngineError
from harness.bench import PREPARATION, SCENARIOS, Load, bench, percentile
from harness.cli import main
from harness.demo.embedded import demo_recipe
from harness.device_timing import device_bench
from harness.errors import HarnessError
from harness.plan import plan
from harness.prepare import prepare
from harness.progress import Progress
from harness.recipe import Recipe
from harness.session import execute
from harness.speed import Speed
from harness.store import Store
from tests.harness import doubles


def test_every_scenario_under_every_condition_with_every_version(small: Recipe, tmp_path: Path) -> None:
    made = plan(replace(small, noise=("clean", "gaussian_noise:3"), engines=("ort-cpu:fp32",)))
    measured = bench(made, prepare(made, tmp_path, Progress()), Load(seconds=0.3, streams=3, callers=2), Progress())
    assert {(each.scenario, each.condition, each.contender) for each in measured} == {
        (scenario, condition.name, who)
        for scenario in SCENARIOS
        for condition in made.distinct
        for who in ("ort-cpu:fp32", PREPARATION)
    }
    found = {(each.scenario, each.condition, each.contender): each for each in measured}
    for each in measured:
        assert each.n > 0
        assert each.value > 0
        assert each.low is None or each.low <= each.value
        assert each.high is None or each.value <= each.high
        assert 0 <= each.engine_ms <= 1.5 * each.median_ms
    for scenario in SCENARIOS:
        # Without an engine nothing is asked, and what is deployed does not contain the corruption.
        engine, nothing = (found[scenario, "clean", who] for who in ("ort-cpu:fp32", PREPARATION))
        assert nothing.engine_ms < engine.engine_ms / 5
    single, several = (found[scenario, "clean", "ort-cpu:fp32"] for scenario in ("single-stream", "multi-stream"))
    assert several.median_ms > 1.5 * single.median_ms


def test_an_order_statistic_holds_its_percentile_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    truth = -np.log(0.1)
    held = 0
    for _ in range(1000):
        _, low, high = percentile(draw.exponential(size=400), 0.9)
        held += low is not None and high is not None and low <= truth <= high
    assert 0.935 <= held / 1000 <= 0.98


def test_too_few_queries_have_no_interval() -> None:
    value, low, high = percentile(np.array([1.0, 2.0, 3.0]), 0.99)
    assert (value, high) == (3.0, None)
    assert low is not None


@pytest.mark.parametrize("load", [{"seconds": 0.0}, {"streams": 0}, {"callers": -1}])
def test_a_load_that_is_none_is_refused(load: dict[str, int]) -> None:
    with pytest.raises(HarnessError, match="a load needs more than 0 seconds"):
        Load(**load)


@pytest.fixture
def narrow(small: Recipe, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A recipe with an engine that takes two pictures at once, the last of three."""
    certify = "engines.ort_certificate:certify_cpu"
    monkeypatch.setitem(ENGINES, "narrow", Entry("tests.harness.doubles:Narrow", "a double", "cpu", certify, "ort-cpu"))
    monkeypatch.setitem(ENGINES, "wide", Entry("tests.harness.doubles:DoubleEngine", "a double", "cpu", certify, ""))
    doubles.calls.clear()
    return replace(small, noise=("clean",), engines=("wide:fp32", "narrow:fp32"))


def test_batch_that_an_engine_would_cut_is_refused_before_anything_is_measured(narrow: Recipe, tmp_path: Path) -> None:
    made = plan(narrow)
    contenders = prepare(made, tmp_path, Progress())
    said = r"narrow:fp32 takes 2 pictures at once, got 3: choose a --batch \(of bench: --streams\) of 2 or less"
    with pytest.raises(EngineError, match=said):
        bench(made, contenders, Load(seconds=0.1, streams=3), Progress())
    with pytest.raises(EngineError, match=said):
        device_bench(contenders, Load(seconds=0.1, streams=3), Progress())
    assert not doubles.calls
    assert bench(made, contenders, Load(seconds=0.1, streams=2), Progress())
    with pytest.raises(EngineError, match=said):
        execute(narrow, tmp_path / "run", Speed(batch=3), Progress())
    assert not Store(tmp_path / "run").parts()
    execute(narrow, tmp_path / "run", Speed(batch=2), Progress())
    assert Store(tmp_path / "run").parts()


def test_what_bench_quantised_is_kept_where_the_run_is(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [small.model, "--data", small.data, "--engines", "ort-cpu:integer"]
    assert main(["bench", *words, "--seconds", "0.1"]) == 0
    (file,) = (tmp_path / "qharness-runs").glob("*/artifacts/*.int8.*.onnx")
    written = file.stat().st_mtime_ns
    assert main(["bench", *words, "--seconds", "0.1"]) == 0
    assert main(["run", *words, "--workers", "0"]) == 0
    assert [each.stat().st_mtime_ns for each in (tmp_path / "qharness-runs").glob("*/artifacts/*.onnx")] == [written]


def test_the_command_prints_what_it_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    demo = demo_recipe()
    common = ["bench", demo.model, "--data", demo.data, "--engines", "ort-cpu:fp32", "--seconds", "0.2"]
    assert main(common) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "single-stream" in said
    assert "preparation alone" in said
    assert "'preparation alone' decodes, resizes and crops" in said
    assert main([*common, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["condition"] for row in rows} == {"clean"}
    assert {row["metric"] for row in rows} == {"p90 latency ms", "p99 latency ms", "pictures per second"}
