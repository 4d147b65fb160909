"""``mismatch``: every step of the declared preprocessing swapped once, and the swaps ranked by what they cost."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from harness.commands.options import add_recipe, add_speed, recipe_from_options, speed_from_options
from harness.extent import WHOLE
from harness.mismatch import mismatch_from_store, mismatch_recipe
from harness.progress import Progress
from harness.recipe import DEFAULT_NOISES
from harness.report.mismatch import terminal_mismatch, write_mismatch
from harness.session import default_folder, execute
from harness.store import Store

if TYPE_CHECKING:
    from harness.commands.options import Commands


def add(commands: Commands) -> None:
    """Describe the command."""
    mismatch = commands.add_parser("mismatch", help="what each difference from the declared preprocessing costs")
    add_recipe(mismatch)
    mismatch.add_argument("-o", "--output", metavar="RUN", help="the run's folder; default: qharness-runs/...")
    add_speed(mismatch)
    mismatch.set_defaults(command=_mismatch, resumes=True)


def _mismatch(options: argparse.Namespace, console: Console) -> int:
    asked = recipe_from_options(options)
    if options.noise is None and asked.noise != DEFAULT_NOISES:
        console.print(
            "The noises of the recipe are left out: every step is swapped instead. --noise names other swaps."
        )
    recipe = mismatch_recipe(asked, options.noise or ())
    store = Store(Path(options.output) if options.output else default_folder(recipe, WHOLE))
    execute(recipe, store.folder, speed_from_options(options), Progress())
    found = mismatch_from_store(store)
    page = write_mismatch(found, store)
    console.print(terminal_mismatch(found))
    console.print(f"\nReport: {page.resolve()}")
    return 0
