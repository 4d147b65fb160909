"""The decomposition of a grid, against the textbook's sums and against simulations whose truth is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import numpy.typing as npt
import pytest
from rich.console import Console

from harness.progress import Progress
from harness.recipe import Recipe
from harness.report.build import Report, report_from_store
from harness.report.cells import Cell
from harness.report.grid import RESAMPLES, Grid, factor_levels, grids_from_cells, projection, terms_from_answers
from harness.report.markdown import markdown_report
from harness.report.page import page
from harness.report.terminal import terminal_report
from harness.session import execute
from harness.speed import Speed
from harness.store import Store
from noise.imagenet_s import SETTINGS

SCHEMA = Path(__file__).parents[2] / "harness" / "report" / "schema.json"
Values = npt.NDArray[np.float64]

SHAPE = (2, 3, 4)
FACTORS = ("precision", "decode", "resize")


def sizes(answers: Values, seed: int = 0) -> dict[tuple[str, ...], tuple[float, float, float]]:
    """Term -> value, low and high."""
    terms = terms_from_answers(answers, SHAPE, FACTORS, 0, seed)
    assert all(each.size.n == len(answers) for each in terms)
    return {each.factors: (each.size.value or 0, each.size.low or 0, each.size.high or 0) for each in terms}


def drawn(means: Values, pictures: int, rng: np.random.Generator) -> Values:
    """Right and wrong answers with these means; half of what decides is the picture's own difficulty."""
    difficulty = rng.random((pictures, 1))
    own = rng.random((pictures, means.size))
    return (np.where(rng.random((pictures, means.size)) < 0.5, difficulty, own) < means.ravel()).astype(np.float64)


def test_settings_are_a_grid_when_every_combination_is_there() -> None:
    levels = factor_levels(list(SETTINGS), ["decode", "resize"])
    assert [len(each) for each in levels.values()] == [3, 11]
    assert factor_levels(list(SETTINGS)[1:], ["decode", "resize"]) == {}
    assert factor_levels(["nearest", "area"], ["resize"]) == {}
    assert factor_levels(["1", "2"], []) == {}


def test_projections_are_orthogonal_and_make_up_everything_but_the_mean() -> None:
    terms = [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
    matrices = [projection(SHAPE, each) for each in terms]
    for index, one in enumerate(matrices):
        assert np.allclose(one @ one, one)
        for other in matrices[index + 1 :]:
            assert np.allclose(one @ other, 0)
    assert np.allclose(sum(matrices) + projection(SHAPE, ()), np.eye(24))


def test_terms_of_certain_answers_are_the_textbooks() -> None:
    # Every picture answers alike, so chance does nothing and cell means are the answers.
    means = np.random.default_rng(1).random(SHAPE)
    got = terms_from_answers(np.tile(means.ravel(), (5, 1)), SHAPE, FACTORS, 0, 0)
    grand = means.mean()
    precision = means.mean(axis=(1, 2)) - grand
    resize = means.mean(axis=(0, 1)) - grand
    both = means.mean(axis=1) - grand - precision[:, None] - resize[None, :]
    expected = {("precision",): precision, ("resize",): resize, ("precision", "resize"): both}
    found = {each.factors: each for each in got}
    for factors, effect in expected.items():
        assert found[factors].size.value == pytest.approx(np.sqrt((effect**2).mean()))
        assert found[factors].observed == pytest.approx(np.sqrt((effect**2).mean()))
        assert found[factors].chance == pytest.approx(0, abs=1e-9)
    total = sum((each.size.value or 0) ** 2 for each in got)
    assert total == pytest.approx(means.var())


def test_where_nothing_matters_the_interval_begins_at_zero() -> None:
    rng = np.random.default_rng(2)
    trials = 25
    seen = sum(low > 0 for _ in range(trials) for _, low, _ in sizes(drawn(np.full(24, 0.7), 150, rng)).values())
    assert seen / (7 * trials) < 0.06


def test_what_is_there_is_found_within_its_interval() -> None:
    rng = np.random.default_rng(3)
    means = np.full(SHAPE, 0.6)
    means[:, :, 0] -= 0.2  # one resize is bad
    means[1, :, 0] -= 0.15  # and worse in integers
    truth = {(0, 2): ("precision", "resize"), (2,): ("resize",)}
    exact = {
        name: float(np.sqrt(((projection(SHAPE, key) @ means.ravel()) ** 2).mean())) for key, name in truth.items()
    }
    trials = 25
    covered = dict.fromkeys(exact, 0)
    values: dict[tuple[str, ...], list[float]] = {name: [] for name in exact}
    for trial in range(trials):
        found = sizes(drawn(means, 200, rng), seed=trial)
        for name, size in exact.items():
            value, low, high = found[name]
            covered[name] += low <= size <= high
            values[name].append(value)
    for name, size in exact.items():
        assert covered[name] / trials > 0.8, (name, covered)
        assert np.mean(values[name]) == pytest.approx(size, rel=0.15)


def test_chance_is_what_repeated_samples_spread_by() -> None:
    # The textbook's standard error of a mean over n pictures, for a term of one factor with two choices.
    answers = np.array([[1, 0], [1, 1], [0, 0], [1, 0], [1, 1]], np.float64)
    half = (answers[:, 0] - answers[:, 1]) / 2
    (term,) = terms_from_answers(answers, (2,), ("resize",), 0, 0)
    variance = half.var(ddof=1) / 5
    assert term.observed == pytest.approx(half.mean())
    assert term.chance == pytest.approx(np.sqrt(variance))
    assert term.size.value == pytest.approx(np.sqrt(half.mean() ** 2 - variance))


def test_chance_is_taken_twice_from_a_resample() -> None:
    # A resample has its own chance on top of the sample's.
    answers = np.random.default_rng(5).integers(0, 2, (40, 2)).astype(np.float64)
    answers[:, 0] = np.maximum(answers[:, 0], np.arange(40) < 32)
    half = (answers[:, 0] - answers[:, 1]) / 2
    drawn_counts = np.random.default_rng(0).multinomial(40, np.full(40, 1 / 40), RESAMPLES)
    resamples = [np.repeat(half, counts) for counts in drawn_counts]
    sizes_of = [np.sqrt(max(0, each.mean() ** 2 - 2 * each.var(ddof=1) / 40)) for each in resamples]
    (term,) = terms_from_answers(answers, (2,), ("resize",), 0, 0)
    assert [term.size.low, term.size.high] == pytest.approx(list(np.quantile(sizes_of, [0.025, 0.975])))
    assert 0 < (term.size.low or 0) < (term.size.value or 0)


def hand_made(answers: dict[str, list[list[int]]]) -> tuple[Grid, ...]:
    """The grids of {a, b} x {x, y} with these answers: contender -> one row per setting."""
    settings = ["a+x", "a+y", "b+x", "b+y"]
    conditions = [
        {
            "noise": "twofold",
            "setting": setting,
            "pipeline": [
                {"stage": "decode", "name": setting[0], "params": {}},
                {"stage": "resize", "name": setting[2], "params": {}},
            ],
            "cells": {name: f"{name} {setting}" for name in answers},
        }
        for setting in settings
    ]
    cells = {}
    for name, rows in answers.items():
        for setting, row in zip(settings, rows, strict=True):
            correct = np.array([max(0, each) for each in row], np.float64)
            places, predictions = np.arange(len(row)), np.array([min(0, each) for each in row], np.int32)
            cells[f"{name} {setting}"] = Cell(places, correct, correct, predictions, {})
    return grids_from_cells(conditions, cells, 0, 1.96)


def test_mean_worst_and_failures_are_those_of_the_answers() -> None:
    right = [[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, -1, 0], [1, 1, 0, 0]]
    (grid,) = hand_made({"e:fp32": right, "e:integer": right})
    spread = grid.spreads["e:fp32"]
    assert (spread.mean.value, spread.mean.failed) == (0.625, 1)
    assert spread.deviation == pytest.approx(np.std([1, 0.75, 0.25, 0.5]))
    assert (spread.worst, spread.lowest.value, spread.lowest.n, spread.lowest.failed) == ("b+x", 0.25, 4, 1)
    sizes_of = {term.factors: term.observed for term in grid.terms["e"]}
    assert sizes_of[("precision",)] == 0
    assert sizes_of[("decode",)] == pytest.approx(0.25)


def test_engine_without_pictures_is_left_out_of_the_grid() -> None:
    some, none = [[1, 0]] * 4, [[], [], [], []]
    answers = {"fast:fp32": some, "fast:integer": some, "slow:fp32": none, "slow:integer": none}
    (grid,) = hand_made(answers)
    assert list(grid.spreads) == ["fast:fp32", "fast:integer"]
    assert list(grid.terms) == ["fast"]


def test_one_picture_has_a_spread_and_no_terms() -> None:
    (grid,) = hand_made({"e:fp32": [[1]] * 4, "e:integer": [[0]] * 4})
    assert grid.terms == {}
    assert grid.spreads["e:fp32"].mean.value == 1
    assert grid.spreads["e:integer"].mean.value == 0


def test_worst_setting_is_whole_in_a_narrow_terminal(
    small: Recipe, run_recipe: Callable[..., Report], capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"imagenet_s:{d}+{r}" for d in ("pillow", "opencv") for r in ("pillow-nearest", "opencv-lanczos4")]
    report = run_recipe(replace(small, noise=("clean", *names), engines=("ort-cpu:fp32",), limit=2))
    Console(width=80).print(terminal_report(report))
    shown = capsys.readouterr().out
    assert "…" not in shown[shown.index("standard") :]


def test_report_of_an_interrupted_run_has_the_grid_of_the_engine_that_went_ahead(small: Recipe, tmp_path: Path) -> None:
    names = [f"imagenet_s:{d}+{r}" for d in ("pillow", "opencv") for r in ("pillow-nearest", "opencv-area")]
    engines = ("ort-cpu:fp32", "ort-cpu:integer", "openvino:fp32", "openvino:integer")
    execute(replace(small, noise=("clean", *names), engines=engines, limit=1), tmp_path, Speed(0, 1), Progress())
    store = Store(tmp_path)
    for part in store.parts():
        if "openvino" in part.name:
            part.unlink()
    report = report_from_store(store)
    (grid,) = report.grids
    assert list(grid.spreads) == ["ort-cpu:fp32", "ort-cpu:integer"]
    described = json.dumps(report.describe(), allow_nan=False)
    jsonschema.validate(json.loads(described), json.loads(SCHEMA.read_text()))
    assert "ort-cpu:integer" in page(report)
    assert terminal_report(report).renderables


def test_report_of_a_grid_has_mean_deviation_worst_and_interaction(
    small: Recipe, run_recipe: Callable[..., Report]
) -> None:
    names = [f"imagenet_s:{d}+{r}" for d in ("pillow", "opencv") for r in ("pillow-nearest", "opencv-area")]
    versions = ("ort-cpu:fp32", "ort-cpu:integer")
    report = run_recipe(replace(small, noise=("clean", *names), engines=versions))
    (grid,) = report.grids
    assert grid.levels == {"decode": ("pillow", "opencv"), "resize": ("pillow-nearest", "opencv-area")}
    rows = {row.setting: row.accuracy for row in report.of_kind("condition") if row.noise == "imagenet_s"}
    for name in versions:
        accuracies = {setting: accuracy[name].value or 0 for setting, accuracy in rows.items()}
        spread = grid.spreads[name]
        assert spread.mean.value == pytest.approx(np.mean(list(accuracies.values())))
        assert spread.deviation == pytest.approx(np.std(list(accuracies.values())))
        assert spread.lowest.value == min(accuracies.values()) == accuracies[spread.worst]
    assert [each.factors for each in grid.terms["ort-cpu"]][-1] == ("precision", "decode", "resize")
    jsonschema.validate(json.loads(json.dumps(report.describe())), json.loads(SCHEMA.read_text()))
    for text in (markdown_report(report), page(report)):
        assert "precision × decode × resize" in text
        assert f"{100 * grid.spreads['ort-cpu:fp32'].deviation:.2f}" in text
