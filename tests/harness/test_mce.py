"""mCE against published figures."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from harness.estimate import Z
from harness.mce import (
    ALEXNET_CLEAN_ERROR,
    ALEXNET_ERROR,
    corruption_error,
    corruption_errors,
    mean_corruption_error,
    relative_mean_corruption_error,
)
from harness.recipe import Recipe
from harness.report.build import CLEAN, Report, _corruption_errors, report_from_store
from harness.report.cells import Cell
from harness.report.markdown import markdown_report
from harness.report.page import page
from harness.report.terminal import terminal_report
from harness.report.text import corruption_error_table
from harness.store import Store

# torchvision's ResNet-50: accuracies in percent at severities 1 to 5, and the corruption error in percent, as
# published by RobustBench (its first 5,000 validation pictures).
RESNET50 = {
    "gaussian_noise": ((60.20, 48.78, 31.24, 14.22, 2.88), 77.3),
    "shot_noise": ((58.28, 44.86, 28.56, 10.26, 3.52), 79.3),
    "impulse_noise": ((48.54, 38.62, 29.04, 11.30, 2.44), 80.2),
    "defocus_blur": ((59.14, 51.54, 38.08, 27.52, 18.24), 74.5),
    "glass_blur": ((53.62, 39.74, 17.08, 13.06, 10.34), 88.6),
    "motion_blur": ((63.60, 53.42, 37.54, 21.58, 14.52), 78.7),
    "zoom_blur": ((52.58, 43.02, 35.60, 28.44, 21.94), 79.8),
    "snow": ((54.68, 31.20, 34.94, 23.44, 16.50), 78.3),
    "frost": ((61.06, 43.66, 30.64, 28.64, 22.58), 75.8),
    "fog": ((60.92, 56.00, 46.74, 40.24, 23.60), 66.5),
    "brightness": ((73.60, 72.22, 69.58, 64.96, 58.86), 57.0),
    "contrast": ((64.28, 58.24, 46.60, 20.98, 5.42), 71.4),
    "elastic_transform": ((66.84, 45.14, 54.56, 41.22, 17.02), 85.2),
    "pixelate": ((63.80, 64.34, 45.98, 29.30, 20.88), 76.8),
    "jpeg_compression": ((66.44, 62.34, 60.04, 47.86, 32.54), 76.1),
}
ERRORS = {name: [1 - accuracy / 100 for accuracy in accuracies] for name, (accuracies, _) in RESNET50.items()}
ALEXNET = {name: [error] * 5 for name, error in ALEXNET_ERROR.items()}


@pytest.mark.parametrize("corruption", RESNET50)
def test_each_corruption_error_is_the_published_one(corruption: str) -> None:
    assert 100 * corruption_error(corruption, ERRORS[corruption]) == pytest.approx(RESNET50[corruption][1], abs=0.06)


def test_resnet50_has_the_published_mce() -> None:
    assert 100 * mean_corruption_error(ERRORS) == pytest.approx(76.4, abs=0.1)


def test_alexnet_is_one_by_definition() -> None:
    assert mean_corruption_error(ALEXNET) == pytest.approx(1)
    assert relative_mean_corruption_error(ALEXNET, ALEXNET_CLEAN_ERROR) == pytest.approx(1)


def test_the_order_of_corruptions_does_not_matter() -> None:
    assert mean_corruption_error(dict(reversed(ERRORS.items()))) == pytest.approx(mean_corruption_error(ERRORS))


def test_an_incomplete_set_is_no_mce() -> None:
    few = {name: errors for name, errors in ERRORS.items() if name not in ("fog", "snow")}
    with pytest.raises(ValueError, match="missing: snow, fog"):
        mean_corruption_error(few)
    with pytest.raises(ValueError, match="errors at 5 severities; got 4"):
        corruption_error("fog", [0.1] * 4)
    with pytest.raises(ValueError, match="'spatter' is not known"):
        corruption_error("spatter", [0.1] * 5)


def answers(pictures: int, seed: int) -> dict[str, np.ndarray]:
    """Corruption -> wrong answers, float64 [5, n], with the published errors; a picture's answers hang together."""
    rng = np.random.default_rng(seed)
    hard = rng.normal(0, 0.15, pictures)
    return {
        name: (rng.random((5, pictures)) < np.clip(np.array(errors)[:, None] + hard, 0, 1)).astype(np.float64)
        for name, errors in ERRORS.items()
    }


def test_estimates_over_pictures_have_the_values_of_the_formulas() -> None:
    wrong, before = answers(300, 1), answers(300, 2)
    clean = (np.random.default_rng(3).random(300) < 0.24).astype(np.float64)
    shares = {name: each.mean(axis=0) for name, each in wrong.items()}
    old = {name: each.mean(axis=0) for name, each in before.items()}
    got = corruption_errors(shares, clean, old, failed=4)
    lists = {name: list(each.mean(axis=1)) for name, each in wrong.items()}
    assert got.mce is not None
    assert got.relative is not None
    assert got.change is not None
    assert got.mce.value == pytest.approx(mean_corruption_error(lists))
    assert got.relative.value == pytest.approx(relative_mean_corruption_error(lists, float(clean.mean())))
    change = mean_corruption_error(lists) - mean_corruption_error({n: list(e.mean(axis=1)) for n, e in before.items()})
    assert got.change.value == pytest.approx(change)
    for name, estimate in got.each.items():
        assert estimate.value == pytest.approx(corruption_error(name, lists[name]))
    for estimate in (got.mce, got.relative, got.change, *got.each.values()):
        assert estimate.low is not None
        assert estimate.value is not None
        assert estimate.high is not None
        assert estimate.low < estimate.value < estimate.high
        assert (estimate.n, estimate.failed, estimate.unit) == (300, 4, "ratio to AlexNet")


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    truth = answers(200_000, 9)
    clean_truth = 0.24
    lists = {name: list(each.mean(axis=1)) for name, each in truth.items()}
    mce, relative = mean_corruption_error(lists), relative_mean_corruption_error(lists, clean_truth)
    covered = np.zeros(2)
    for seed in range(200):
        shares = {name: each.mean(axis=0) for name, each in answers(150, 1000 + seed).items()}
        clean = (np.random.default_rng(seed).random(150) < clean_truth).astype(np.float64)
        got = corruption_errors(shares, clean, None, 0)
        for index, (estimate, value) in enumerate(((got.mce, mce), (got.relative, relative))):
            assert estimate is not None
            assert estimate.low is not None
            assert estimate.high is not None
            covered[index] += estimate.low <= value <= estimate.high
    assert (covered / 200 > 0.90).all(), covered


def fifteen(*, without: str = "") -> tuple[list[dict[str, object]], dict[str, Cell]]:
    """The conditions and cells of a run of two versions under clean and the fifteen corruptions."""
    names = [CLEAN, *(f"{name}:{level}" for name in ERRORS if name != without for level in range(1, 6))]
    names.append("procedural_frost:1")
    conditions, cells = [], {}
    for name in names:
        noise, _, setting = name.partition(":")
        keys = {version: f"{version} {name}" for version in ("ort-cpu:fp32", "ort-cpu:integer")}
        conditions.append({"name": name, "noise": noise, "setting": setting, "cells": keys})
        for key in keys.values():
            correct = (np.random.default_rng(len(key)).random(40) < 0.5).astype(np.float64)
            cells[key] = Cell(np.arange(40), correct, correct, np.where(np.arange(40) < 3, -1, 1).astype(np.int32), {})
    return conditions, cells  # type: ignore[return-value]


def test_a_run_of_all_fifteen_has_an_mce_for_every_version() -> None:
    conditions, cells = fifteen()
    found = _corruption_errors(conditions, cells, Z)
    assert list(found) == ["ort-cpu:fp32", "ort-cpu:integer"]
    for version, errors in found.items():
        lists = {n: [float(1 - cells[f"{version} {n}:{s}"].correct.mean()) for s in range(1, 6)] for n in ERRORS}
        assert errors.mce is not None
        assert errors.mce.value == pytest.approx(mean_corruption_error(lists))
        assert errors.mce.failed == 3
    assert found["ort-cpu:fp32"].change is None
    assert found["ort-cpu:integer"].change is not None


def test_procedural_frost_never_stands_for_frost() -> None:
    found = _corruption_errors(*fifteen(without="frost"), Z)
    assert all(errors.mce is None and "frost" not in errors.each for errors in found.values())


def test_every_form_shows_what_is_complete_and_says_what_is_missing(finished: Path) -> None:
    conditions, cells = fifteen()
    few = [each for each in conditions if each["noise"] in (CLEAN, "contrast")]
    report = replace(report_from_store(Store(finished)), corruption_errors=_corruption_errors(few, cells, Z))
    header, body, note = corruption_error_table(report)
    assert header[1:] == ["fp32", "integer"]
    assert [line[0] for line in body] == ["contrast"]
    assert "it needs gaussian_noise, shot_noise" in note
    assert re.fullmatch(r"\d+\.\d \(\d+\.\d to \d+\.\d\)", body[0][1])
    console = Console(width=250)
    with console.capture() as screen:
        console.print(terminal_report(report))
    for form in (screen.get(), markdown_report(report), page(report)):
        assert body[0][1] in form
        assert note[:60] in form


def test_classes_other_than_imagenets_have_no_ratio_to_alexnet(
    small: Recipe, run_recipe: Callable[..., Report]
) -> None:
    report = run_recipe(replace(small, noise=("clean", "contrast"), engines=("ort-cpu:fp32",)))
    assert report.corruption_errors == {}
    assert "Corruption errors" not in markdown_report(report) + page(report)


def test_a_run_without_a_complete_corruption_has_no_errors() -> None:
    conditions, cells = fifteen()
    assert _corruption_errors([each for each in conditions if each["setting"] in ("", "1")], cells, Z) == {}
