"""The ranking of a run whose every answer is known: ten pictures, written by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness.mismatch import Mismatch, Swap, _change, mismatch_from_store
from harness.record import Record
from harness.report.figures import TICK_WIDTH, forest
from harness.report.mismatch import headline, mismatch_page, terminal_mismatch
from harness.store import Store

DECLARED = [
    {"stage": "decode", "name": "pillow", "params": {"exif_orientation": True}},
    {"stage": "resize", "name": "pillow", "params": {"size": 256, "filter": "bilinear"}},
]
DECODE = {"stage": "decode", "name": "ffmpeg", "params": {}}
RESIZE = {"stage": "resize", "name": "opencv", "params": {"size": 256, "filter": "nearest", "ready_size": None}}
REASON = "<nvJPEG> needs a GPU"

# One letter per picture: r is right, w and v are two wrong classes, f failed.
ANSWERS = {
    "clean": {"e:fp32": "rrrrrrrrwf", "e:integer": "rrrrrrrwwf"},
    "resize:nearest": {"e:fp32": "wrrrrrrrwf", "e:integer": "wwwrrrrrvf"},
    "decode:ffmpeg": {"e:fp32": "frrrrrrrwf", "e:integer": "frrrrrrwwf"},
    "decode:nothing": {"e:fp32": "fffffffwwf", "e:integer": "ffffffffff"},
    "decode:same": {"e:fp32": "rrrrrrrrwf", "e:integer": "rrrrrrrwwf"},
}
PIPELINES = {
    "clean": DECLARED,
    "resize:nearest": [DECLARED[0], RESIZE],
    "decode:ffmpeg": [DECODE, DECLARED[1]],
    "decode:nothing": [DECODE, DECLARED[1]],
    "decode:same": DECLARED,
}


def record(cell: str, picture: int, answer: str) -> Record:
    sample = f"picture {picture}"
    if answer == "f":
        return Record(cell, sample, 0, "JPEG RGB", error="it cannot be read")
    prediction = "rwv".index(answer)
    return Record(cell, sample, 0, "JPEG RGB", prediction, prediction == 0, True, 1.0, 0.0, 1.0)


def written(folder: Path, engines: tuple[str, ...] = ("e",), **recipe: Any) -> Store:
    """A run of these answers; engines other than "e" have not answered yet."""
    conditions = []
    for name, pipeline in PIPELINES.items():
        same = "clean" if pipeline is DECLARED else name
        cells = {f"{engine}:{version}": f"{same} {engine}:{version}" for engine in engines for version in VERSIONS}
        noise, _, setting = name.partition(":")
        conditions.append({"name": name, "noise": noise, "setting": setting, "pipeline": pipeline, "cells": cells})
    store = Store(folder)
    store.create()
    store.claim(
        {
            "recipe": {"preprocess": "", **recipe},
            "conditions": conditions,
            "model": {"file": "m.onnx"},
            "data": {"source": "pictures"},
            "preprocessing": DECLARED,
            "not_run": [{"name": "decode:nvjpeg", "reason": REASON}],
        }
    )
    finding = {"check": "decode", "severity": "warning", "message": f"asked for and not run: nvjpeg. {REASON}"}
    store.write_json("prepared.json", {"findings": [finding]})
    rows = [
        record(f"{name} {contender}", picture, answer)
        for name, answers in ANSWERS.items()
        if name != "decode:same"
        for contender, letters in answers.items()
        for picture, answer in enumerate(letters)
    ]
    store.write_part(0, "e", rows)
    return store


VERSIONS = ("fp32", "integer")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Mismatch:
    return mismatch_from_store(written(tmp_path_factory.mktemp("by-hand") / "run"))


def swap(found: Mismatch, name: str) -> Swap:
    return next(each for each in found.swaps if each.name == name)


def bonett_price(differences: list[float]) -> tuple[float, float]:
    """Bonett and Price (2012), section 3: one better and one worse picture are added."""
    n = len(differences) + 2
    mean = sum(differences) / n
    variance = (sum(each**2 for each in differences) + 2) / n - mean**2
    half = 1.959964 * math.sqrt(variance / n)
    return mean - half, mean + half


def test_pictures_are_paired_by_name_and_not_by_chance(found: Mismatch) -> None:
    nearest = swap(found, "resize:nearest").effects["e:integer"]
    assert nearest.difference.value == pytest.approx(-0.2)
    low, high = bonett_price([-1, -1, -1, 0, 0, 0, 0, 1, 0, 0])
    assert (nearest.difference.low, nearest.difference.high) == pytest.approx((low, high), abs=1e-5)
    assert (nearest.better, nearest.worse) == (1, 3)
    assert nearest.flipped.value == pytest.approx(0.5)
    assert (nearest.difference.n, nearest.difference.failed, nearest.flipped.failed, nearest.rejected) == (10, 1, 1, 0)


def test_p_value_is_mcnemars(found: Mismatch) -> None:
    # One better of four: mid-p is 2 (1 + 4) / 16 - 4 / 16.
    assert swap(found, "resize:nearest").effects["e:integer"].p_value == pytest.approx(6 / 16)
    # None better of one: 2 / 2 - 1 / 2.
    assert swap(found, "decode:ffmpeg").effects["e:integer"].p_value == pytest.approx(0.5)


def test_what_quantisation_adds_has_the_interval_of_its_own_differences(found: Mismatch) -> None:
    added = swap(found, "resize:nearest").added["e"]
    assert added.value == pytest.approx(-0.2 - -0.1)
    # Halved, so that they lie in [-1, 1]: (integer - fp32) under the swap minus the same without.
    low, high = bonett_price([0, -0.5, -0.5, 0, 0, 0, 0, 0.5, 0, 0])
    assert (added.low, added.high) == pytest.approx((2 * low, 2 * high), abs=1e-5)
    assert added.failed == 1


def test_failures_are_counted_and_a_swap_that_mostly_fails_is_ranked_behind(found: Mismatch) -> None:
    assert [each.name for each in found.swaps] == ["resize:nearest", "decode:ffmpeg", "decode:nothing"]
    ffmpeg, nothing = (swap(found, name).effects["e:integer"] for name in ("decode:ffmpeg", "decode:nothing"))
    assert (ffmpeg.rejected, ffmpeg.difference.failed, ffmpeg.flipped.value) == (1, 2, 0.1)
    assert (nothing.rejected, nothing.difference.failed, nothing.flipped.value) == (9, 10, 0.9)
    assert nothing.unusable
    assert not ffmpeg.unusable
    told = " ".join(headline(found))
    assert "The most expensive is resize:nearest" in told
    assert "cannot read count as wrong: decode:ffmpeg (1), decode:nothing (9)" in told
    assert "Unusable here, and ranked behind all others: decode:nothing" in told


def test_certain_losses_are_those_whose_whole_interval_is_below_zero(found: Mismatch) -> None:
    certain = [each.name for each in found.swaps if (each.effects["e:integer"].difference.high or 0) < 0]
    assert certain == ["decode:nothing"]
    told = " ".join(headline(found))
    assert "1 of 3 swaps lose accuracy with an interval below zero" in told
    assert "of 3 without any effect 0.1 would look so by chance" in told


def test_change_names_what_is_new_and_what_it_changes_on_the_way(found: Mismatch) -> None:
    assert swap(found, "resize:nearest").change == "resize.opencv(filter=nearest)"
    assert swap(found, "decode:ffmpeg").change == "decode.ffmpeg(), EXIF orientation ignored"
    assert found.declared == ("decode:same",)


def test_change_names_a_colour_step_that_the_model_declares_already() -> None:
    colour = {"stage": "colour", "name": "bgr", "params": {}}
    declared = [DECLARED[0], colour, DECLARED[1]]
    assert _change([DECLARED[0], colour, colour, DECLARED[1]], declared) == "colour.bgr()"


def test_page_shows_every_column_under_its_own_title(found: Mismatch) -> None:
    page = mismatch_page(found)
    head = page[page.index("<h2>Ranking") :]
    titles = [each.split("</th>")[0] for each in head.split("<th>")[1:]]
    row = next(each for each in head.split("<tr class=''>")[1:] if "resize:nearest" in each)
    shown = dict(zip(titles, [each.split("</td>")[0] for each in row.split("<td>")[1:]], strict=False))
    assert shown["e:fp32, points"].startswith("-10.0 [")
    assert shown["e:integer, points"].startswith("-20.0 [")
    assert shown["e: integer minus fp32, points"].startswith("-10.0 [-")
    low, high = bonett_price([0, -0.5, -0.5, 0, 0, 0, 0, 0.5, 0, 0])
    assert shown["e: integer minus fp32, points"] == f"-10.0 [{200 * low:+.1f}, {200 * high:+.1f}]"
    counts = [shown[name] for name in ("better / worse", "n", "failed / by the swap")]
    assert counts == ["1 / 3", "10", "1 / 0"]


def test_page_draws_the_forest_and_says_once_what_was_not_run(found: Mismatch) -> None:
    page = mismatch_page(found)
    assert page.count('class="forests"') == 1
    drawn = page[page.index('class="forest"') :]
    assert all(each.name in drawn for each in found.swaps)
    assert drawn.count('<g class="worse">') == 2
    assert page.count("nvJPEG") == 1
    assert "&lt;nvJPEG&gt; needs a GPU" in page


def test_forest_has_room_for_its_longest_name(found: Mismatch) -> None:
    difference = found.swaps[0].effects["e:integer"].difference
    name = "imagenet_s:opencv+opencv-lanczos4-and-more"
    drawn = forest([(name, {"e": difference})], {"e": "e"})
    right_end = float(drawn.split('text-anchor="end"')[0].rpartition('x="')[2].split('"')[0])
    assert right_end >= TICK_WIDTH * len(name)


def test_terminal_shows_the_failures_within_eighty_columns(found: Mismatch, capsys: pytest.CaptureFixture[str]) -> None:
    Console(width=80).print(terminal_mismatch(found))
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if line.startswith("3 ")).split()[-1] == "9"
    assert next(line for line in lines if line.startswith("1 ")).split()[-1] == "0"


@pytest.mark.parametrize("width", [80, 120])
def test_terminal_shows_two_of_six_contenders_and_says_where_the_others_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    six = mismatch_from_store(written(tmp_path / "run", engines=("e", "slow", "slower")))
    assert len(six.contenders) == 6
    Console(width=width).print(terminal_mismatch(six))
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if line.startswith("1 "))
    assert " ".join(row.split()) == "1 resize:nearest -10.0 ±29.6 10.0 % -20.0 ±42.2 50.0 % 2 0"
    told = " ".join(" ".join(lines).split())
    assert "On the page: what all of them do to slow:fp32, slow:integer, slower:fp32, slower:integer." in told


def test_engine_that_has_seen_nothing_does_not_rank(tmp_path: Path) -> None:
    behind = mismatch_from_store(written(tmp_path / "run", engines=("slow", "e")))
    assert behind.shipped == "e:integer"
    assert behind.pictures == 10
    assert "-" in mismatch_page(behind)
    assert terminal_mismatch(behind).renderables


def test_swaps_are_of_the_preset_where_one_was_named(tmp_path: Path) -> None:
    preset = mismatch_from_store(written(tmp_path / "run", preprocess="tensorflow"))
    assert "3 swaps of what the preset 'tensorflow' declares" in headline(preset)[0]
    assert "the preset" not in headline(mismatch_from_store(written(tmp_path / "bare")))[0]
