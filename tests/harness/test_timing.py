"""Timing: shares are shares, and the sentence names what held the run back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from time import sleep
from typing import Any

import pytest

from harness.meter import Meter
from harness.recipe import Recipe
from harness.report.build import Report
from harness.report.timing import bottleneck, timing_from_parts
from harness.speed import Speed

PART: Mapping[str, Any] = {
    "wall_seconds": 10.0,
    "pictures": 5,
    "engines": ["x"],
    "workers": 2,
    "callers": 2,
    "batch": 4,
    "cores": 4,
    "cpu_seconds": 20.0,
    "stage_seconds": {"read": 1.0, "sensor": 9.0},
    "engine_seconds": {"a": 6.0, "b": 2.0},
    "busy_seconds": {"a": 5.0, "b": 2.0},
    "starved_seconds": 1.0,
    "blocked_seconds": 3.0,
    "queue_depth": 1.5,
    "trials": [],
}


def changed(changes: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**PART, **changes}


def test_parts_add_up() -> None:
    timing = timing_from_parts([PART, changed({"workers": 0, "blocked_seconds": 0.0, "starved_seconds": 0.0})])
    assert timing["wall_seconds"] == 20.0
    assert timing["pictures_per_second"] == 0.5
    assert timing["work_seconds"] == {"read": 2.0, "sensor": 18.0, "engine a": 12.0, "engine b": 4.0}
    assert timing["busy_share"] == {"a": 0.5, "b": 0.2}
    assert timing["cores_share"] == 0.5
    assert timing["starved_share"] == 0.05  # of the callers that workers fed
    assert timing["blocked_share"] == 0.15
    assert timing["queue_depth"] == 1.5
    assert [staff["pictures"] for staff in timing["staffs"]] == [5, 5]


@pytest.mark.parametrize(
    ("changes", "held"),
    [
        ({"cpu_seconds": 38.0}, "The 4 cores were the limit, busy for 95 %"),
        ({"cpu_seconds": 38.0}, "largest consumer was sensor with 50 %"),
        ({"cpu_seconds": 38.0, "engine_seconds": {"a": 20.0}}, "running that engine on an accelerator"),
        ({"starved_seconds": 8.0}, "callers waited for pictures for 40 % of their time"),
        ({"busy_seconds": {"a": 9.5, "b": 2.0}}, "a was the limit, busy for 95 %"),
        ({}, "Nothing was busy all the time: the cores for 50 %"),
    ],
)
def test_the_sentence_names_what_held_the_run_back(changes: Mapping[str, Any], held: str) -> None:
    assert held in bottleneck(timing_from_parts([changed(changes)]))


def test_nothing_measured_says_nothing() -> None:
    assert bottleneck(timing_from_parts([])) == ""


def test_an_engine_is_busy_once_however_many_calls_are_in_flight() -> None:
    meter = Meter()
    with meter.engine("a"), meter.engine("a"):
        sleep(0.05)
        lap = meter.lap()
        sleep(0.05)
    second = meter.lap()
    assert 0.05 <= lap["busy_seconds"]["a"] <= lap["wall_seconds"]
    assert 0.05 <= second["busy_seconds"]["a"] <= second["wall_seconds"]
    assert second["engine_seconds"]["a"] >= 0.2


@pytest.mark.parametrize("speed", [Speed(workers=0, callers=2), Speed(workers=2, callers=1)])
def test_shares_of_a_run_are_shares(small: Recipe, run_recipe: Callable[..., Report], speed: Speed) -> None:
    timing = run_recipe(replace(small, engines=("ort-cpu:fp32",)), speed=speed).timing
    fed = speed.workers != 0
    names = ("cores_share", *(("starved_share", "blocked_share") if fed else ()))
    for share in (*timing["busy_share"].values(), *(timing[name] for name in names)):
        assert 0 <= share <= 1
    assert (timing["queue_depth"] is not None) == fed
    assert timing["pictures_per_second"] > 0
    assert {"read", "decode", "resize", "sensor", "layout", "engine ort-cpu:fp32"} <= set(timing["work_seconds"])
