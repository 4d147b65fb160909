"""The loop and the checks with engines that fail, by doubles that each fail in one way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest

from engines import ENGINES, Entry
from harness.errors import HarnessError
from harness.plan import plan
from harness.prepare import prepare
from harness.progress import Progress
from harness.recipe import Recipe
from harness.report.build import Report
from harness.speed import Speed
from harness.store import Store
from tests.harness import doubles

Use = Callable[[str], Recipe]
CONTRAST = tuple(f"contrast:{severity}" for severity in range(1, 5))


@pytest.fixture
def use(small: Recipe, monkeypatch: pytest.MonkeyPatch) -> Use:
    """The small recipe on a double of an engine, in floating point alone."""

    def with_double(name: str) -> Recipe:
        certify = "engines.ort_certificate:certify_cpu"
        row = Entry(f"tests.harness.doubles:{name}", "a double", "cpu", certify, "ort-cpu")
        monkeypatch.setitem(ENGINES, "double", row)
        return replace(small, engines=("double:fp32",), noise=("clean", "brightness:5"))

    return with_double


def test_a_batch_that_fails_is_tried_picture_by_picture(use: Use, run_recipe: Callable[..., Report]) -> None:
    report = run_recipe(use("Fragile"))
    assert report.pictures == 16
    assert 0 < report.failed_pictures < 16
    assert {error["error"] for error in report.errors} == {"engine: too bright"}
    clean, bright = report.of_kind("condition")
    assert clean.accuracy["double:fp32"].failed < bright.accuracy["double:fp32"].failed < 16


def test_failures_do_not_depend_on_the_batch(use: Use, run_recipe: Callable[..., Report]) -> None:
    recipe = use("Fragile")
    one = run_recipe(recipe, "one", Speed(workers=2, batch=1))
    many = run_recipe(recipe, "many", Speed(workers=2, batch=8))
    assert one.errors == many.errors
    assert [row.accuracy for row in one.rows] == [row.accuracy for row in many.rows]


def test_answers_that_are_no_numbers_are_failures(use: Use, run_recipe: Callable[..., Report]) -> None:
    report = run_recipe(use("NotFinite"), speed=Speed(batch=2))
    assert report.failed_pictures == 16
    assert report.errors[0]["error"] == "16 of 16 outputs are not finite"
    assert [finding["check"] for finding in report.findings] == ["outputs"]


def test_an_engine_that_is_not_reentrant_is_called_by_one_worker_at_a_time(
    use: Use, run_recipe: Callable[..., Report]
) -> None:
    assert run_recipe(use("Alone"), speed=Speed(workers=4, batch=1)).failed_pictures == 0


def test_batches_are_as_large_as_asked_for_and_no_larger(use: Use, run_recipe: Callable[..., Report]) -> None:
    recipe = replace(use("DoubleEngine"), noise=("clean", "brightness", *CONTRAST))
    doubles.calls.clear()
    run_recipe(recipe, speed=Speed(workers=1, batch=4))
    # Ten conditions of each of 16 pictures: 4 + 4 + 2. The checks before the run take 8 at once or 1.
    assert doubles.calls.count(4) == 2 * 16
    assert doubles.calls.count(2) == 16


@pytest.mark.parametrize("speed", [Speed(workers=0, batch=4), Speed(workers=2, batch=1)])
def test_the_same_input_is_answered_once_and_makes_a_record_for_each_condition(
    use: Use, run_recipe: Callable[..., Report], tmp_path: Path, speed: Speed
) -> None:
    # No picture of these has an orientation or a profile: three of the five conditions feed the very same bytes.
    names = ("clean", "decode:pillow-exif", "resize:nearest", "decode:pillow-icc", "brightness:2")
    doubles.calls.clear()
    run_recipe(replace(use("DoubleEngine"), noise=names), speed=speed)
    asked = sum(doubles.calls)
    doubles.calls.clear()
    run_recipe(replace(use("DoubleEngine"), noise=("clean", "resize:nearest", "brightness:2")), "three", speed)
    assert asked == sum(doubles.calls)
    store, three = Store(tmp_path / "run"), Store(tmp_path / "three")
    kept = "sample, label, source, prediction, correct, top5, margin, log_probability, confidence, error"
    cells = {
        each["name"]: each["cells"]["double:fp32"] for each in store.read_json("run.json")["identity"]["conditions"]
    }
    rows = {
        name: store.query(f"select {kept} from records where cell = '{cell}' order by sample")
        for name, cell in cells.items()
    }
    assert all(len(each) == 16 for each in rows.values())
    assert rows["clean"] == rows["decode:pillow-exif"] == rows["decode:pillow-icc"]
    assert rows["clean"] != rows["resize:nearest"]
    for name in ("clean", "resize:nearest", "brightness:2"):
        alone = three.query(f"select {kept} from records where cell = '{cells[name]}' order by sample")
        assert alone == rows[name]


def test_an_error_of_the_engine_is_that_of_every_condition_with_the_same_input(
    use: Use, run_recipe: Callable[..., Report]
) -> None:
    recipe = replace(use("NotFinite"), noise=("clean", "decode:pillow-exif"))
    clean, again = run_recipe(recipe, speed=Speed(batch=1)).of_kind("condition")
    assert clean.accuracy["double:fp32"].failed == 16
    assert clean.accuracy == again.accuracy


@pytest.mark.parametrize(
    ("name", "check", "message"),
    [
        ("Moody", "repeatability", "answers differently when asked twice"),
        ("Sociable", "batch", "depends on the size of the batch"),
        ("Probabilities", "outputs", "positive and sum to one, but are declared as logits"),
    ],
)
def test_an_engine_that_misbehaves_is_a_finding(
    use: Use, run_recipe: Callable[..., Report], name: str, check: str, message: str
) -> None:
    findings = run_recipe(use(name)).findings
    assert [finding["check"] for finding in findings] == [check]
    assert message in findings[0]["message"]


def test_a_sound_engine_has_no_findings(use: Use, run_recipe: Callable[..., Report]) -> None:
    assert run_recipe(use("DoubleEngine")).findings == []


def test_calibration_pictures_that_cannot_be_read_are_left_out_and_said(
    small: Recipe, run_recipe: Callable[..., Report], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("calibrate") / "pictures"
    copytree(small.calibrate, folder)
    recipe = replace(small, calibrate=str(folder), noise=("clean",), limit=4)
    used = [Path(sample.locator.path) for sample in plan(recipe).calibration.samples.samples]
    used[0].write_text("no picture")
    report = run_recipe(recipe)
    assert report.contenders["ort-cpu:integer"]["made_by"]["calibration"]["inputs"] == 7
    assert [finding["message"] for finding in report.findings] == ["1 of 8 calibration inputs could not be decoded"]
    for path in used[:5]:
        path.write_text("no picture")
    with pytest.raises(HarnessError, match="5 of 8 calibration pictures cannot be read"):
        prepare(plan(recipe), folder.parent / "again", Progress())
