"""Draw the demo pictures: lit, textured, overlapping objects of sixteen classes.

Synthetic stand-ins for ImageNet photographs.  Every picture follows from its arguments alone.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from harness.demo.outlines import CLASSES, blob, outline
from harness.demo.scene import Light, Plane, Solid, clouds, expose, mix, place, texture, two_colours

__all__ = ["CLASSES", "draw", "draw_numbered", "write_pictures"]

JPEG_QUALITY = 82
_SIDE_RANGE = (250, 340)


def draw(class_index: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A scene around one object of the class CLASSES[class_index], all chance taken from `rng`.

    Returns uint8 RGB of shape [height, width, 3], both sides from 250 to 340 pixels.
    """
    main = outline(class_index, rng)
    height, width = (int(side) for side in rng.integers(*_SIDE_RANGE, size=2, endpoint=True))
    light = Light.sample(rng)
    backdrop_hue, backdrop_value = rng.random(), rng.uniform(0.25, 0.8)
    backdrop = two_colours(rng, hue=backdrop_hue, value=backdrop_value)
    canvas = mix(backdrop, _backdrop_texture((height, width), rng))
    side = min(height, width)
    radius = side * rng.uniform(0.25, 0.39)
    slack = 0.45 * side - radius
    centre = (width / 2 + rng.uniform(-slack, slack), height / 2 + rng.uniform(-slack, slack))
    for _ in range(rng.integers(4, 8)):
        place(canvas, _clutter((height, width), rng), light, rng)
    colours = two_colours(rng, hue=rng.random(), value=_contrasting_value(backdrop_value, rng))
    place(canvas, Solid(main, colours, centre, radius), light, rng)
    for _ in range(rng.integers(1, 4)):
        place(canvas, _occluder(centre, radius, rng), light, rng)
    return expose(canvas, rng)


def _backdrop_texture(shape: tuple[int, int], rng: np.random.Generator) -> Plane:
    fine = texture(shape, rng, grain=rng.uniform(14.0, 60.0))
    coarse = clouds(shape, rng, grain=120.0)
    return np.asarray(0.5 * fine + 0.5 * coarse, dtype=np.float32)


def _contrasting_value(value: float, rng: np.random.Generator) -> float:
    """A brightness in [0.15, 0.95] that differs from `value` by 0.15 or more."""
    while True:
        candidate = rng.uniform(0.15, 0.95)
        if abs(candidate - value) >= 0.15:
            return candidate


def _any_outline(rng: np.random.Generator) -> list[npt.NDArray[np.float64]]:
    """A blob of no class or, as often, a small object of any class."""
    return blob(rng) if rng.random() < 0.5 else outline(int(rng.integers(len(CLASSES))), rng)


def _clutter(shape: tuple[int, int], rng: np.random.Generator) -> Solid:
    """A small object anywhere in the scene."""
    height, width = shape
    colours = two_colours(rng, hue=rng.random(), value=rng.uniform(0.15, 0.9))
    centre = (rng.uniform(0.0, width), rng.uniform(0.0, height))
    return Solid(_any_outline(rng), colours, centre, radius=min(shape) * rng.uniform(0.04, 0.11))


def _occluder(centre: tuple[float, float], radius: float, rng: np.random.Generator) -> Solid:
    """A small object in front of the main one, over its rim more often than its middle."""
    angle, distance = rng.uniform(0.0, 2.0 * np.pi), radius * rng.uniform(0.35, 1.15)
    position = (centre[0] + distance * float(np.cos(angle)), centre[1] + distance * float(np.sin(angle)))
    colours = two_colours(rng, hue=rng.random(), value=rng.uniform(0.15, 0.9))
    return Solid(_any_outline(rng), colours, position, radius * rng.uniform(0.15, 0.34))


def draw_numbered(class_index: int, number: int, *, seed: int, split: str) -> npt.NDArray[np.uint8]:
    """Picture `number` of a class in a split, as `draw` returns it, whatever else is drawn."""
    name = f"{seed}/{split}/{CLASSES[class_index]}/{number}"
    digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
    return draw(class_index, np.random.default_rng(int.from_bytes(digest, "big")))


def write_pictures(folder: Path, *, per_class: int, seed: int, split: str) -> list[Path]:
    """Write `per_class` JPEGs of every class as folder/<class>/<split>_<number>.jpg; return their paths.

    The pictures of splits with different names are different; raising `per_class` only adds pictures.
    """
    if per_class < 1:
        raise ValueError(f"expected per_class of at least 1, got {per_class}; ask for one picture or more")
    paths = []
    for class_index, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            path = folder / name / f"{split}_{number:04d}.jpg"
            pixels = draw_numbered(class_index, number, seed=seed, split=split)
            Image.fromarray(pixels).save(path, quality=JPEG_QUALITY, subsampling="4:2:0", optimize=True)
            paths.append(path)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m harness.demo.shapes", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the class folders go")
    parser.add_argument("--per-class", type=int, required=True, help="pictures of each class")
    parser.add_argument("--seed", type=int, required=True, help="any integer")
    parser.add_argument("--split", required=True, help="train, calibrate or score")
    arguments = parser.parse_args()
    paths = write_pictures(arguments.folder, per_class=arguments.per_class, seed=arguments.seed, split=arguments.split)
    size = sum(path.stat().st_size for path in paths)
    print(f"{len(paths)} pictures, {size / 1e6:.2f} MB, in {arguments.folder}")


if __name__ == "__main__":
    main()
