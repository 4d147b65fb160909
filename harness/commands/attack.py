"""``attack``: adversarial pictures, made once and given to every engine."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from harness.adversarial.session import DEFAULT_BUDGETS, PICTURES, Request, attack
from harness.commands.options import add_recipe, add_speed, names, recipe_from_options, speed_from_options
from harness.errors import HarnessError
from harness.progress import Progress
from harness.report.adversarial import terminal_attack, write_attack
from harness.store import Store
from noise.adversarial import ATTACKS
from noise.adversarial.base import budget_from_text

if TYPE_CHECKING:
    from harness.commands.options import Commands

DEFAULT_ATTACKS = "pgd,apgd-ce,square"


def add(commands: Commands) -> None:
    """Describe the command."""
    parser = commands.add_parser("attack", help="adversarial pictures: made once, given to every engine, and judged")
    add_recipe(parser)
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="the folder of sets and report; continues")
    parser.add_argument(
        "--attacks",
        type=attack_texts,
        default=DEFAULT_ATTACKS,
        metavar="NAMES",
        help=f"with commas, of {', '.join(ATTACKS)}; A+B goes on with B on the engine from what A found on its twin; "
        "default: %(default)s",
    )
    parser.add_argument(
        "--budgets",
        type=names,
        metavar="LIST",
        help="[NORM:]EPSILON, with commas, of pictures from 0 to 1: 2/255, l2:0.5; default: those of the recipe, else "
        + ",".join(each.name for each in DEFAULT_BUDGETS),
    )
    parser.add_argument(
        "--sources", type=names, default=(), metavar="NAMES", help="what is attacked: twin, twin-ENGINE, ENGINE:VERSION"
    )
    parser.add_argument(
        "--surrogates", type=names, default=(), metavar="FILES", help="other ONNX files whose twins are attacked too"
    )
    parser.add_argument(
        "--doubt",
        type=int,
        default=20,
        metavar="N",
        help="look for masking on N pictures; 0 for not at all; default 20",
    )
    add_speed(parser)
    parser.set_defaults(command=_attack, resumes=True)
    parser.epilog = f"At most {PICTURES} pictures are attacked unless --limit says otherwise."


def attack_texts(text: str) -> tuple[str, ...]:
    """Attacks with commas between them; parameters have commas too.

    >>> attack_texts("pgd:steps=20,step=0.1,square")
    ('pgd:steps=20,step=0.1', 'square')
    """
    return tuple(each.strip() for each in re.split(r",(?!\s*\w+=)", text) if each.strip())


def _attack(options: argparse.Namespace, console: Console) -> int:
    if options.noise or options.adversarial:
        raise HarnessError("an attack begins at clean pictures: leave --noise and --adversarial to qharness run")
    budgets = None if options.budgets is None else tuple(map(budget_from_text, options.budgets))
    request = Request(options.attacks, budgets, options.sources, options.surrogates, options.doubt)
    out = Path(options.output)
    outcome = attack(request, recipe_from_options(options), out, speed_from_options(options), Progress())
    page = write_attack(outcome, Store(out))
    console.print(terminal_attack(outcome))
    console.print(f"\nReport: {page.resolve()}", markup=False)
    return 0
