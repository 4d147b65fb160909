"""Adversarial sets: what is stored, that a run gives exactly that to engines, and which models it is refused for."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engines.onnx_file import artifact_from_onnx
from harness.adversarial.session import Outcome
from harness.adversarial.sets import set_from_folder, sets_from_folder
from harness.errors import HarnessError
from harness.plan import plan
from harness.preprocess import compile_tree
from harness.recipe import Recipe
from harness.report.build import Report
from harness.store import Store

Attacked = tuple[Path, Outcome]


def test_a_set_holds_every_picture_within_its_budget_and_says_whose_it_is(attacked: Attacked, recipe: Recipe) -> None:
    made = plan(replace(recipe, noise=("clean",)))
    front = [step for step in made.pipeline.steps if step.stage in ("decode", "resize", "crop")]
    tree = compile_tree([replace(made.pipeline, steps=tuple(front))])
    sets = sets_from_folder(attacked[0] / "sets")
    assert {each.made["source"]["name"] for each in sets} == {"twin", "twin-ort-cpu", "ort-cpu:integer"}
    for each in sets:
        assert set(each.entries) == {sample.id for sample in made.scored.samples}
        for sample in made.scored.samples:
            entry = each.entries[sample.id]
            stored = (each.folder / entry["file"]).read_bytes()
            assert hashlib.sha256(stored).hexdigest() == entry["sha256"]
            original = next(tree.walk(sample.read(), sample.id, 0)).tensor
            assert original is not None
            levels = np.asarray(Image.open(each.folder / entry["file"])).astype(int)
            assert np.abs(levels - original).max() <= 4
            assert entry["stored_distance"] == pytest.approx(np.abs(levels - original).max() / 255, abs=1e-6)


def test_a_run_gives_engines_the_stored_pictures_and_nothing_else(
    attacked: Attacked, recipe: Recipe, run_recipe: Callable[..., Report], tmp_path: Path
) -> None:
    chosen = next(each for each in sets_from_folder(attacked[0] / "sets") if "square" in each.name)
    whole = replace(recipe, noise=("clean",), adversarial=(str(chosen.folder),))
    report = run_recipe(whole)
    assert [row.name for row in report.of_kind("condition")] == ["clean", f"adversarial:{chosen.name}"]
    identity = Store(tmp_path / "run").read_json("run.json")["identity"]
    cell = identity["conditions"][1]["cells"]["ort-cpu:integer"]
    said = dict(Store(tmp_path / "run").query(f"select sample, prediction from records where cell = '{cell}'"))
    assert said == {name: entry["stored"] for name, entry in chosen.entries.items()}


def first_picture(folder: Path) -> Path:
    entry = next(iter(set_from_folder(folder).entries.values()))
    return folder / entry["file"]


def test_a_set_of_other_pictures_makes_other_cells(attacked: Attacked, tmp_path: Path, recipe: Recipe) -> None:
    source = next((attacked[0] / "sets").glob("twin.*"))
    keys = []
    for change in ("same", "other"):
        folder = shutil.copytree(source, tmp_path / change / "set")
        if change == "other":
            picture, manifest = first_picture(folder), folder / "manifest.jsonl"
            old = hashlib.sha256(picture.read_bytes()).hexdigest()
            Image.new("RGB", (224, 224)).save(picture)
            manifest.write_text(manifest.read_text().replace(old, hashlib.sha256(picture.read_bytes()).hexdigest()))
        made = plan(replace(recipe, noise=("clean",), adversarial=(str(folder),)))
        keys.append(made.conditions[1].content)
    assert keys[0] != keys[1]


def test_a_picture_that_is_not_what_was_stored_is_not_measured(
    attacked: Attacked, tmp_path: Path, recipe: Recipe
) -> None:
    folder = shutil.copytree(next((attacked[0] / "sets").glob("twin.*")), tmp_path / "set")
    measured = replace(recipe, noise=("clean",), adversarial=(str(folder),))
    plan(measured)
    picture = first_picture(folder)
    Image.new("RGB", (224, 224)).save(picture)
    with pytest.raises(HarnessError, match=rf"{picture.name} is not the picture that was stored.*; attack again"):
        plan(measured)
    picture.unlink()
    with pytest.raises(HarnessError, match=rf"{picture.name} cannot be read .*; attack again"):
        plan(measured)


def test_a_set_is_refused_where_a_picture_has_another_class_now(attacked: Attacked, recipe: Recipe) -> None:
    made = plan(replace(recipe, noise=("clean",)))
    one = sets_from_folder(attacked[0] / "sets")[0]
    first, *rest = made.scored.samples
    one.check(made.artifact, made.scored.samples)
    with pytest.raises(HarnessError, match=rf"{first.id} attacked as class {first.label}, .* scored as class 15"):
        one.check(made.artifact, [replace(first, label=15), *rest])


def test_a_set_is_refused_for_pictures_that_it_lacks(attacked: Attacked, recipe: Recipe) -> None:
    with pytest.raises(HarnessError, match=r"lacks 2 of the 12 scored pictures, the first is .*--seed 0"):
        plan(replace(recipe, limit=12, noise=("clean",), adversarial=(str(attacked[0] / "sets"),)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": [160, 160]}, r"160 x 160 pixels, and shapes.onnx takes 224 x 224: a resize would undo"),
        ({"classes": 1000}, r"made for 1000 classes, and shapes.onnx has 16"),
        ({"class_names": ["other"] * 16}, "classes in another order"),
    ],
)
def test_a_set_is_refused_for_a_model_that_it_does_not_fit(
    attacked: Attacked, recipe: Recipe, change: dict[str, object], message: str
) -> None:
    one = sets_from_folder(attacked[0] / "sets")[0]
    other = replace(one, made={**one.made, **change})
    with pytest.raises(HarnessError, match=message):
        other.check(artifact_from_onnx(Path(recipe.model)), ())


def test_a_folder_without_a_set_is_refused_with_the_command_that_makes_one(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"there is no adversarial set in .*qharness attack MODEL"):
        plan(replace(recipe, adversarial=(str(tmp_path),)))
    (tmp_path / "manifest.jsonl").write_text("{}\n")
    with pytest.raises(HarnessError, match="is no whole adversarial set"):
        plan(replace(recipe, adversarial=(str(tmp_path),)))
