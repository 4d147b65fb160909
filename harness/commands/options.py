"""Options that several commands share, and what they stand for."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from engines import CPU_NAMES
from engines.artifact import format_of
from exporters import IMPROVEMENTS
from harness.errors import HarnessError, unknown
from harness.plan import INTEGER
from harness.recipe import FORMS, Recipe, read_recipe, resolved
from harness.registry import engines_for
from harness.speed import Speed
from noise.presets import preset_names

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

Command = Callable[[argparse.Namespace, Console], int]

# option -> key of the recipe, where the two differ
_KEYS = {"form": "corruption_form", "method": "calibration_method"}


def names(text: str) -> tuple[str, ...]:
    """Names with commas between them."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def add_model(parser: argparse.ArgumentParser) -> None:
    """The model or recipe, and how its pictures are preprocessed."""
    parser.add_argument("target", metavar="MODEL|RECIPE", help="a model file, or a recipe (.toml)")
    parser.add_argument("--preprocess", metavar="PRESET", help=f"one of {', '.join(preset_names())}")
    parser.add_argument("--seed", type=int, metavar="N", help="of every random draw; default 0")


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Everything that a recipe may say."""
    add_model(parser)
    parser.add_argument("--data", metavar="DATA", help="pictures to score: a folder, .csv, .tar or .parquet files")
    parser.add_argument("--labels", metavar="FILE", help="the labels of --data, where it has none itself")
    parser.add_argument("--calibrate", metavar="DATA", help="pictures to calibrate on; default: some of --data")
    parser.add_argument("--calibration", metavar="FILE", help="ranges from qharness calibrate, instead of new ones")
    parser.add_argument("--method", metavar="NAME", help="of calibration; default minmax")
    parser.add_argument("--noise", type=names, metavar="NAMES", help="NAME or NAME:SETTING, with commas")
    parser.add_argument("--form", choices=FORMS, help="of corrupted pictures; stored: as JPEG; default: in-memory")
    parser.add_argument("--imagenet-c", metavar="DIR", help="read corrupted pictures from DIR/NAME/SEVERITY/CLASS/FILE")
    parser.add_argument("--frost-overlays", metavar="DIR", help="ImageNet-C's photographs of frost")
    parser.add_argument("--adversarial", type=names, metavar="DIRS", help="sets of qharness attack, or folders of them")
    parser.add_argument("--engines", type=names, metavar="NAMES", help="ENGINE or ENGINE:VERSION, with commas")
    parser.add_argument("--cpu", metavar="NAME", help=f"answer for another processor too: {', '.join(CPU_NAMES)}")
    parser.add_argument("--limit", type=int, metavar="N", help="score at most N pictures")
    add_quantisation(parser)


def add_quantisation(parser: argparse.ArgumentParser) -> None:
    """How a model becomes integers."""
    parser.add_argument("--weights", metavar="HOW", help="per-channel (default) or per-tensor scales")
    parser.add_argument("--activations", metavar="HOW", help="symmetric or asymmetric; default: what suits the target")
    parser.add_argument("--weight-bits", type=int, metavar="N", help="7 where products saturate, else 8 (the default)")
    parser.add_argument("--keep-float", type=names, metavar="PATTERNS", help="nodes that stay in float: 'fc*,conv1'")
    parser.add_argument("--improve", type=names, metavar="NAMES", help=f"with commas: {', '.join(IMPROVEMENTS)}")


def add_output(parser: argparse.ArgumentParser) -> None:
    """Where the run is, with its quantised files and plans."""
    parser.add_argument("-o", "--output", metavar="RUN", help="the run's folder; default: qharness-runs/...")


def add_speed(parser: argparse.ArgumentParser) -> None:
    """How fast, which changes no result."""
    parser.add_argument("--workers", type=int, metavar="N", help="processes that prepare pictures, 0 for none")
    parser.add_argument("--callers", type=int, metavar="N", help="threads that call engines; default: measured")
    parser.add_argument("--batch", type=int, default=4, metavar="N", help="pictures per call; default: %(default)s")


def recipe_from_options(options: argparse.Namespace, *, scores: bool = True) -> Recipe:
    """The recipe that the command line stands for: a file with changes, or a model with defaults.

    Args:
        scores: whether the command cannot do without pictures to score.
    """
    known = {*Recipe.__dataclass_fields__} - {"model"}
    given = {_KEYS.get(name, name): value for name, value in vars(options).items() if value is not None}
    changes = {key: value for key, value in given.items() if key in known}
    target = Path(options.target)
    is_recipe = target.suffix == ".toml"
    if not is_recipe:
        changes.setdefault("engines", engines_for(format_of(target))[:1])
    cpu = given.get("cpu")
    if cpu is not None and cpu not in CPU_NAMES:
        raise unknown("emulated processor", cpu, CPU_NAMES)
    if cpu is not None:
        changes["engines"] = (*changes.get("engines", Recipe.engines), f"ort-{cpu}:{INTEGER}")
    if is_recipe:
        if not target.is_file():
            raise HarnessError(f"there is no recipe {target}")
        return resolved(replace(read_recipe(target), **changes), Path.cwd())
    if scores and not options.data:
        raise HarnessError(
            f"qharness needs pictures: add --data DATA to {target}; a folder with one folder per class, a .csv, "
            f".tar or .parquet files"
        )
    return resolved(Recipe(**{"data": "", **changes, "model": options.target}), Path.cwd())


def speed_from_options(options: argparse.Namespace) -> Speed:
    """What `add_speed` added."""
    return Speed(options.workers, options.callers, options.batch)
