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
from harness.report.text import time_text
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
    "any_engine_busy_seconds": 6.0,
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
    assert timing["engines_share"] == 0.6
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
        ({"cpu_seconds": 38.0}, "or fewer settings per noise"),
        ({"cpu_seconds": 38.0, "engine_seconds": {"a": 8.0, "b": 7.0}}, "largest consumer was inference with 60 %"),
        ({"cpu_seconds": 38.0, "engine_seconds": {"a": 20.0}}, "running engines on an accelerator"),
        ({"starved_seconds": 8.0}, "callers waited for pictures for 40 % of their time"),
        (
            {"any_engine_busy_seconds": 9.0},
            "The engines were the limit, busy for 90 % of the time while cores were free",
        ),
        ({"any_engine_busy_seconds": 9.0}, "a for 50 %. Larger batches (--batch)"),
        ({"blocked_seconds": 11.4}, "workers had no room for another picture for 57 % of their time. More callers"),
        ({}, "Nothing was busy all the time: the cores for 50 %, the engines for 60 %"),
    ],
)
def test_the_sentence_names_what_held_the_run_back(changes: Mapping[str, Any], held: str) -> None:
    assert held in bottleneck(timing_from_parts([changed(changes)]))


def test_versions_that_take_turns_are_the_limit_together() -> None:
    turns = {f"{engine}:{version}": 1.5 for engine in ("a", "b") for version in ("fp32", "simulated", "integer")}
    one_caller = {"callers": 1, "busy_seconds": turns, "engine_seconds": turns, "any_engine_busy_seconds": 9.0}
    assert "The engines were the limit, busy for 90 %" in bottleneck(timing_from_parts([changed(one_caller)]))


def test_a_picture_that_went_through_two_lanes_is_one_picture() -> None:
    lanes = [changed({"engines": [name], "pictures": 12, "wall_seconds": 6.0}) for name in ("fast", "slow")]
    timing = timing_from_parts(lanes)
    assert [staff["pictures"] for staff in timing["staffs"]] == [12]
    assert timing["pictures_per_second"] == 1.0
    assert ": 12 pictures by 2 worker processes and 2 caller threads in batches of 4." in time_text(timing)


def test_nobody_says_how_busy_the_cores_were_under_an_emulated_processor() -> None:
    beside = changed({"engines": ["ort-cpu"], "cpu_seconds": 38.0})
    for busy, said in ((8.0, "busy for 70 % of the time. How busy the cores were"), (10.0, "of the time, a for 50 %")):
        emulated = changed({"engines": ["ort-haswell"], "cpu_seconds": 0.2, "any_engine_busy_seconds": busy})
        timing = timing_from_parts([emulated, beside])
        assert timing["cores_share"] is None
        assert said in bottleneck(timing)


def test_seconds_of_machines_side_by_side_are_not_called_those_of_the_run() -> None:
    text = time_text(timing_from_parts([PART, PART]))
    assert text.startswith(
        "Measuring took 20.0 s (the time of machines and actors that worked side by side is added up)"
    )


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


def test_any_engine_is_busy_once_however_many_of_them_are() -> None:
    meter = Meter()
    with meter.engine("a"):
        sleep(0.03)
        with meter.engine("b"):
            sleep(0.03)
    with meter.engine("b"):
        sleep(0.03)
    sleep(0.03)
    lap = meter.lap()
    either = sum(lap["busy_seconds"].values()) - 0.03  # while both were busy
    assert 0.09 <= lap["any_engine_busy_seconds"] <= either
    assert lap["any_engine_busy_seconds"] <= lap["wall_seconds"] - 0.03
    assert meter.lap()["any_engine_busy_seconds"] == 0.0


@pytest.mark.parametrize("speed", [Speed(workers=0, callers=2), Speed(workers=2, callers=1)])
def test_shares_of_a_run_are_shares(small: Recipe, run_recipe: Callable[..., Report], speed: Speed) -> None:
    timing = run_recipe(replace(small, engines=("ort-cpu:fp32",)), speed=speed).timing
    fed = speed.workers != 0
    names = ("cores_share", *(("starved_share", "blocked_share") if fed else ()))
    for share in (*timing["busy_share"].values(), timing["engines_share"], *(timing[name] for name in names)):
        assert 0 <= share <= 1
    assert (timing["queue_depth"] is not None) == fed
    assert timing["pictures_per_second"] > 0
    assert {"read", "decode", "resize", "sensor", "layout", "engine ort-cpu:fp32"} <= set(timing["work_seconds"])
