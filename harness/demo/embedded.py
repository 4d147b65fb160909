"""The embedded default: a network and pictures that ship with the package, as a recipe."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from harness.recipe import Recipe


def demo_recipe() -> Recipe:
    """The default noises on the embedded network; calibrated on embedded pictures that are not scored."""
    home = Path(str(files("harness.demo")))
    return Recipe(
        model=str(home / "shapes.onnx"),
        data=str(home / "pictures" / "score"),
        calibrate=str(home / "pictures" / "calibrate"),
    )
