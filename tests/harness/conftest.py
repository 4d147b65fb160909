"""A small real run: the embedded network on a few embedded pictures and a few conditions."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness.demo.embedded import demo_recipe
from harness.progress import Progress
from harness.recipe import Recipe
from harness.report.build import ENGINE_STEP, Loss, Report, Row, report_from_store
from harness.session import execute
from harness.speed import Speed
from harness.store import Store

# One of each kind of step: nothing, a random one, a deterministic one, a swap.
NOISES = ("clean", "gaussian_noise:3", "brightness:2", "resize:nearest")


def copy_pictures(source: Path, target: Path, *, per_class: int) -> Path:
    """The first pictures of every class, as a folder of the test's own."""
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        (target / folder.name).mkdir(parents=True)
        for picture in sorted(folder.iterdir())[:per_class]:
            shutil.copy(picture, target / folder.name)
    return target


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 classes of one picture; tests must not change it."""
    return copy_pictures(Path(demo_recipe().data), tmp_path_factory.mktemp("data") / "pictures", per_class=1)


@pytest.fixture(scope="session")
def small(pictures: Path) -> Recipe:
    """A recipe that takes a few seconds."""
    return replace(demo_recipe(), data=str(pictures), calibration_pictures=8, noise=NOISES)


@pytest.fixture
def run_recipe(tmp_path: Path) -> Callable[..., Report]:
    """Execute a recipe in a folder of the test's own."""

    def run_it(recipe: Recipe, name: str = "run", speed: Speed | None = None) -> Report:
        return execute(recipe, tmp_path / name, speed or Speed(workers=2), Progress())

    return run_it


@pytest.fixture(scope="session")
def finished(small: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished small run; tests must not change it."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    execute(small, folder, Speed(workers=2), Progress())
    return folder


@pytest.fixture(scope="session")
def two_engines(finished: Path) -> Report:
    """A report as that of two engines, with changes that need much room; the second engine is a double."""
    report = report_from_store(Store(finished))

    def other(name: str) -> str:
        return name.replace("ort-cpu", "openvino")

    def wide(loss: Loss) -> Loss:
        return replace(loss, difference=replace(loss.difference, value=-0.125, low=-0.273, high=0.148))

    def beside(row: Row) -> Row:
        mine = [wide(loss) for loss in row.losses]
        copied = [replace(loss, before=other(loss.before), after=other(loss.after)) for loss in mine]
        between = replace(copied[-1], step=ENGINE_STEP, before=mine[-1].after)
        return replace(
            row,
            accuracy={**row.accuracy, **{other(name): each for name, each in row.accuracy.items()}},
            losses=(*mine, *copied, between),
        )

    seconds = report.timing["work_seconds"]
    return replace(
        report,
        contenders={
            **report.contenders,
            **{other(name): {**facts, "engine": "openvino"} for name, facts in report.contenders.items()},
        },
        rows=tuple(beside(row) for row in report.rows),
        timing={**report.timing, "work_seconds": {**seconds, **{other(name): each for name, each in seconds.items()}}},
    )
