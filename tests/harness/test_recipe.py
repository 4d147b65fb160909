"""Recipes: unknown keys, wrong types and missing keys are named; a stored recipe means the same again."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.recipe import Recipe, read_recipe, resolved, toml_from_recipe


def test_a_stored_recipe_reads_back_equal(tmp_path: Path) -> None:
    recipe = resolved(Recipe(model="m.onnx", data="d", noise=("clean", "resize"), seed=7, limit=3), tmp_path)
    (tmp_path / "recipe.toml").write_text(toml_from_recipe(recipe))
    assert read_recipe(tmp_path / "recipe.toml") == recipe


def test_every_default_is_written_out(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(toml_from_recipe(Recipe(model="m.onnx", data="d")))
    text = (tmp_path / "recipe.toml").read_text()
    for key in ("calibrate", "calibration_pictures", "preprocess", "noise", "engines", "limit", "seed"):
        assert f"{key} = " in text


def test_paths_are_relative_to_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('model = "models/m.onnx"\ndata = "../pictures"\n')
    recipe = read_recipe(tmp_path / "r.toml")
    assert recipe.model == str(tmp_path / "models" / "m.onnx")
    assert recipe.data == str(tmp_path.parent / "pictures")
    assert recipe.calibrate == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('model = "m"\ndata = "d"\nnoize = ["clean"]', "no recipe key .* 'noize'; did you mean 'noise'"),
        ('data = "d"', 'needs model = "..."'),
        ('model = "m"', 'needs data = "..."'),
        ('model = "m"\ndata = "d"\nlimit = "ten"', "limit must be of type int; got 'ten'"),
        ('model = "m"\ndata = "d"\nlimit = true', "limit must be of type int; got True"),
        ('model = "m"\ndata = "d"\nnoise = "clean"', "noise must be a list of strings; got 'clean'"),
        ('model = "m"\ndata = "d"\nseed = -1', "seed must not be negative; got -1"),
        ('model = "m"\ndata = "d"\nengines = []', "at least one name under 'engines'"),
        ("model = ", "not a recipe in TOML"),
    ],
)
def test_a_mistake_in_a_recipe_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(HarnessError, match=message):
        read_recipe(tmp_path / "r.toml")
