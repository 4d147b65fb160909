"""Attacked pictures of the embedded network, made once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.adversarial.session import Outcome, Request, attack
from harness.demo.embedded import demo_recipe
from harness.progress import Progress
from harness.recipe import Recipe
from harness.speed import Speed
from noise.adversarial.base import budget_from_text

REQUEST = Request(("pgd:steps=3", "square:queries=30", "pgd:steps=3+square:queries=10"), (budget_from_text("4/255"),))
PICTURES = 10


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    """A few embedded pictures."""
    return replace(demo_recipe(), calibration_pictures=4, limit=PICTURES)


@pytest.fixture(scope="session")
def attacked(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """The folder of an attack and what it came to; tests must not change it."""
    pytest.importorskip("torch", reason="twins need torch")
    out = tmp_path_factory.mktemp("attacks") / "out"
    return out, attack(REQUEST, recipe, out, Speed(workers=0, callers=1), Progress())
