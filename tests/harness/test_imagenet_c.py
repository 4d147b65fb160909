"""ImageNet-C on disk: what `qharness corrupt` wrote and a run reads back is what the run would have drawn itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.corrupt import Request, corrupt_pictures
from harness.progress import Progress
from harness.recipe import Recipe
from harness.report.build import Report
from harness.speed import Speed
from harness.store import Store

NOISES = ("clean", "gaussian_noise:3", "glass_blur:1")


def rows(folder: Path) -> list[tuple[object, ...]]:
    """Everything of the records but the cells' names and what kind of file the pictures were."""
    return Store(folder).query(
        "select sample, label, prediction, top5, margin, log_probability, confidence, error from records order by all"
    )


@pytest.fixture
def tree(small: Recipe, tmp_path: Path) -> Callable[[str], Path]:
    """Draws the small pictures in a format."""

    def draw(form: str) -> Path:
        request = Request(("gaussian_noise:3", "glass_blur:1"), seed=small.seed)
        outcome = corrupt_pictures(small.data, tmp_path / form, request, form, Speed(workers=2), Progress())
        assert outcome.failures == 0
        return tmp_path / form

    return draw


@pytest.mark.parametrize(("form", "corruption_form"), [("png", "in-memory"), ("jpeg", "stored")])
def test_pictures_on_disk_give_the_records_of_generated_ones(
    form: str,
    corruption_form: str,
    small: Recipe,
    tree: Callable[[str], Path],
    run_recipe: Callable[..., Report],
    tmp_path: Path,
) -> None:
    recipe = replace(small, noise=NOISES, engines=("ort-cpu:fp32",))
    run_recipe(replace(recipe, imagenet_c=str(tree(form))), "read")
    run_recipe(replace(recipe, corruption_form=corruption_form), "drawn")
    assert rows(tmp_path / "read") == rows(tmp_path / "drawn")


def test_a_picture_that_is_missing_on_disk_is_a_counted_failure(
    small: Recipe, tree: Callable[[str], Path], run_recipe: Callable[..., Report]
) -> None:
    folder = tree("png")
    next((folder / "glass_blur" / "1").rglob("*.png")).unlink()
    report = run_recipe(replace(small, noise=NOISES, engines=("ort-cpu:fp32",), imagenet_c=str(folder)))
    failed = {row.name: row.accuracy["ort-cpu:fp32"].failed for row in report.of_kind("condition")}
    assert failed == {"clean": 0, "gaussian_noise:3": 0, "glass_blur:1": 1}
    assert "No such file" in report.errors[0]["error"]


def test_a_picture_of_the_crops_size_is_not_resized_again(tmp_path: Path, tree: Callable[[str], Path]) -> None:
    source = tmp_path / "pictures" / "n01440764"
    source.mkdir(parents=True)
    picture = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    Image.fromarray(picture).save(source / "a.png")
    corrupt_pictures(
        str(tmp_path / "pictures"), tmp_path / "out", Request(("impulse_noise:1",)), "png", Speed(), Progress()
    )
    noisy = np.asarray(Image.open(tmp_path / "out" / "impulse_noise" / "1" / "n01440764" / "a.png"))
    assert np.mean(noisy == picture) > 0.95  # three values in a hundred are replaced, all others are as they were
