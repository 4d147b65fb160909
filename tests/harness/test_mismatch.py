"""Mismatch: the effects are those of the records, the ranking is theirs, and the run is one like any other."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copy

import onnx
import pytest
from onnx import numpy_helper
from rich.console import Console

from harness.cli import main
from harness.errors import HarnessError
from harness.mismatch import Mismatch, mismatch_from_store, mismatch_recipe, systematic_noises
from harness.plan import plan
from harness.progress import Progress
from harness.recipe import Recipe, toml_from_recipe
from harness.report.build import Report
from harness.report.mismatch import headline, mismatch_page, terminal_mismatch
from harness.report.text import plus_minus
from harness.session import execute
from harness.speed import Speed
from harness.store import Store
from noise import NOISES
from noise.crop import SETTINGS as CROPS

SAME = ("decode:pillow-icc", "decode:pillow-exif")  # the pictures have neither a profile nor an orientation
SWAPS = (*SAME, "resize:nearest", "resize:pillow-bilinear", "colour:bgr", "crop:letterbox", "layout")


@pytest.fixture(scope="module")
def store(small: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("mismatch") / "run"
    execute(mismatch_recipe(small, SWAPS), folder, Speed(workers=0, callers=2), Progress())
    return Store(folder)


@pytest.fixture(scope="module")
def found(store: Store) -> Mismatch:
    return mismatch_from_store(store)


def test_systematic_noises_are_those_that_put_no_corruption_behind_the_crop() -> None:
    assert systematic_noises() == ("decode", "colour", "resize", "crop", "normalise", "layout")
    assert set(systematic_noises()) < set(NOISES)


def test_recipe_swaps_everything_in_two_versions_of_every_engine(small: Recipe) -> None:
    recipe = mismatch_recipe(replace(small, engines=("ort-cpu", "openvino:integer"), seed=3))
    assert recipe.noise == ("clean", *systematic_noises())
    assert recipe.engines == ("ort-cpu:fp32", "ort-cpu:integer", "openvino:integer")
    assert replace(recipe, noise=small.noise, engines=small.engines) == replace(small, seed=3)


@pytest.mark.parametrize("name", ["fog:2", "imagenet_s:opencv+pillow-box", "gaussian_noise"])
def test_noise_that_is_no_swap_of_one_step_is_refused(small: Recipe, name: str) -> None:
    noise = name.partition(":")[0]
    with pytest.raises(
        HarnessError, match=f"there is no swap of one step '{noise}'.* measured by qharness run"
    ) as told:
        mismatch_recipe(small, ("resize", name))
    assert all(each in str(told.value) for each in systematic_noises())


def test_misspelt_swap_is_refused_with_the_nearest_name(small: Recipe) -> None:
    with pytest.raises(HarnessError, match="did you mean 'resize'") as told:
        mismatch_recipe(small, ("rezise:nearest",))
    assert "measured by" not in str(told.value)


def test_file_that_is_quantised_already_has_no_float_version(small: Recipe, store: Store) -> None:
    quantised = next(store.artifacts.glob("*.int8.*.onnx"))
    recipe = mismatch_recipe(replace(small, model=str(quantised)), ("resize",))
    assert recipe.engines == ("ort-cpu:integer",)
    assert recipe.noise == ("clean", "resize")


def test_integer_input_has_the_scale_of_the_file_where_that_is_quantised(small: Recipe, store: Store) -> None:
    quantised = next(store.artifacts.glob("*.int8.*.onnx"))
    model = onnx.load(quantised)
    first = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    assert first.input[0] == model.graph.input[0].name
    constants = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    scale, zero = (constants[name].item() for name in first.input[1:])

    def rounding(recipe: Recipe) -> list[dict[str, object]]:
        asked = replace(recipe, noise=("normalise:quantised-uint8", "normalise:quantised-int8"), engines=("ort-cpu",))
        return [dict(each.pipeline.step_of("normalise", "").params) for each in plan(asked).conditions]

    own, other = rounding(replace(small, model=str(quantised)))
    assert (own["codes"], own["step"], own["zero"]) == ("uint8", scale, zero)
    assert (other["codes"], other["step"], other["zero"]) == ("int8", 0, 0), "the file has no such codes"
    assert [each["step"] for each in rounding(small)] == [0, 0], "the file is not quantised yet"


def test_effects_are_those_that_sql_counts_in_the_records(found: Mismatch, store: Store) -> None:
    conditions = {each["name"]: each["cells"] for each in found.identity["conditions"]}
    assert {swap.name for swap in found.swaps} == set(conditions) - {"clean", "resize:pillow-bilinear", *SAME}
    for swap in found.swaps:
        for contender, effect in swap.effects.items():
            before, after = conditions["clean"][contender], conditions[swap.name][contender]
            ((n, better, worse, flipped, difference),) = store.query(
                "select count(*), count(*) filter (b.correct and not a.correct), "
                "count(*) filter (a.correct and not b.correct), avg((a.prediction <> b.prediction)::int), "
                "avg(b.correct::int) - avg(a.correct::int) "
                "from records a join records b using (sample) "
                f"where a.cell = '{before}' and b.cell = '{after}'"
            )
            assert (effect.difference.n, effect.better, effect.worse) == (n, better, worse)
            assert n == 16
            assert effect.flipped.value == pytest.approx(flipped)
            assert effect.difference.value == pytest.approx(difference)
            assert effect.difference.low is not None
            assert effect.difference.high is not None
            assert effect.difference.low <= effect.difference.value <= effect.difference.high


def test_what_quantisation_adds_is_the_difference_of_the_effects(found: Mismatch) -> None:
    for swap in found.swaps:
        fp32, integer = (swap.effects[f"ort-cpu:{version}"].difference.value for version in ("fp32", "integer"))
        assert fp32 is not None
        assert integer is not None
        added = swap.added["ort-cpu"]
        assert added.value == pytest.approx(integer - fp32)
        assert added.low is not None
        assert added.low < added.value


def test_ranking_is_by_accuracy_and_then_by_flips(found: Mismatch) -> None:
    assert found.shipped == "ort-cpu:integer"
    effects = [swap.effects[found.shipped] for swap in found.swaps]
    keys = [(effect.difference.value, -(effect.flipped.value or 0)) for effect in effects]
    assert keys == sorted(keys)
    by_flips = sorted(found.flip_ranks, key=lambda name: found.flip_ranks[name])
    flips = [next(s for s in found.swaps if s.name == name).effects[found.shipped].flipped.value for name in by_flips]
    assert flips == sorted(flips, reverse=True)
    assert sorted(found.flip_ranks.values()) == list(range(1, len(found.swaps) + 1))


def test_a_swap_to_what_is_declared_is_named_and_not_ranked(found: Mismatch) -> None:
    assert found.declared == ("resize:pillow-bilinear",)


def test_a_swap_that_changes_no_answer_did_nothing_and_is_not_ranked(found: Mismatch) -> None:
    assert found.unchanged == SAME
    assert f"Did nothing, every answer to every picture is the same: {', '.join(SAME)}." in headline(found)


def test_every_swap_says_which_step_is_new(found: Mismatch) -> None:
    changes = {swap.name: swap.change for swap in found.swaps}
    assert changes["colour:bgr"] == "colour.bgr()"
    assert changes["resize:nearest"].startswith("resize.opencv(")
    assert "filter=nearest" in changes["resize:nearest"]


def test_page_and_terminal_show_the_numbers_of_the_json(found: Mismatch, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads(json.dumps(found.describe()))
    page = mismatch_page(found)
    assert "http" not in page
    assert "<script" not in page
    for swap in content["swaps"]:
        value = swap["effects"]["ort-cpu:integer"]["flipped"]["value"]
        assert f"{100 * value:.1f} %" in page
        assert swap["name"] in page
    Console(width=80).print(terminal_mismatch(found))
    shown = capsys.readouterr().out.splitlines()
    for rank, swap in enumerate(found.swaps, start=1):
        effect = swap.effects["ort-cpu:integer"]
        line = next(line for line in shown if line.startswith(f"{rank} "))
        assert swap.name in line
        assert f"{100 * (effect.flipped.value or 0):.1f} %" in line, "the table does not fit eighty columns"
        assert plus_minus(effect.difference) in line


def test_command_writes_the_page_and_goes_on_where_it_was(
    small: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["mismatch", small.model, "--data", small.data, "--calibrate", small.calibrate, "--limit", "4"]
    command += ["--noise", "resize:nearest,colour:bgr", "-o", str(tmp_path / "run")]
    assert main(command) == 0
    assert "colour:bgr" in capsys.readouterr().out
    parts = sorted((tmp_path / "run" / "parts").iterdir())
    times = [part.stat().st_mtime_ns for part in parts]
    (tmp_path / "run" / "mismatch.html").unlink()
    assert main(command) == 0
    assert [part.stat().st_mtime_ns for part in parts] == times
    assert (tmp_path / "run" / "mismatch.html").exists()
    assert main(["report", str(tmp_path / "run"), "--mismatch"]) == 0
    assert json.loads((tmp_path / "run" / "mismatch.json").read_text())["pictures"] == 4


def test_command_says_that_the_noises_of_a_recipe_are_left_out(
    small: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.mismatch.systematic_noises", lambda: ("layout",))  # one swap is enough here
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(toml_from_recipe(replace(small, noise=("clean", "fog:2"), limit=1)))
    assert main(["mismatch", str(recipe), "-o", str(tmp_path / "run")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "The noises of the recipe are left out" in said
    assert main(["mismatch", str(recipe), "--noise", "layout", "-o", str(tmp_path / "named")]) == 0
    assert "are left out" not in " ".join(capsys.readouterr().out.split())


def test_run_without_clean_pictures_has_nothing_to_compare_with(
    small: Recipe, tmp_path: Path, run_recipe: Callable[..., Report]
) -> None:
    run_recipe(replace(small, noise=("colour:bgr",), limit=2, engines=("ort-cpu:fp32",)))
    with pytest.raises(HarnessError, match="holds no condition 'clean'"):
        mismatch_from_store(Store(tmp_path / "run"))


def test_swaps_of_steps_that_are_not_there_are_reported_and_the_others_run(small: Recipe) -> None:
    made = plan(mismatch_recipe(replace(small, preprocess="imagenet-crop"), ("crop", "resize", "colour:bgr")))
    assert [each.name for each in made.conditions] == [
        "clean",
        "crop:offset-half-even",
        "crop:offset-floor",
        "crop:offset-half-up",
        "colour:bgr",
    ]
    reasons = {each.name: each.reason for each in made.not_run}
    assert "resize.opencv swaps the resize step, but this pipeline has none" in reasons["resize:nearest"]
    assert "the noise changes the resize step" in reasons["crop:square"]


def test_model_that_is_fed_whole_squares_keeps_its_input(small: Recipe, tmp_path: Path) -> None:
    sidecar = json.loads(Path(small.model + ".json").read_text())
    size = next(step["params"]["size"] for step in sidecar["preprocessing"] if step["stage"] == "crop")
    whole = [step for step in sidecar["preprocessing"] if step["stage"] != "crop"]
    next(step for step in whole if step["stage"] == "resize")["params"].update(geometry="square", size=size)
    copy(small.model, tmp_path / "whole.onnx")
    sidecar["preprocessing"] = whole
    (tmp_path / "whole.onnx.json").write_text(json.dumps(sidecar))
    made = plan(mismatch_recipe(replace(small, model=str(tmp_path / "whole.onnx")), ("crop", "resize:nearest")))
    assert [each.name for each in made.conditions] == ["clean", "crop:square", "resize:nearest"]
    assert {each.setting for each in made.not_run} == set(CROPS) - {"square"}
