"""Session: attacks on a model become adversarial sets, the sets a run on every contender, the run a report.

::

    OUT/sets/SOURCE.ATTACK.BUDGET/   one adversarial set each
    OUT/artifacts/                   quantised files, calibration
    OUT/runs/KEY/                    an ordinary run, of these sets and clean pictures
    OUT/attack.html, .json           the report
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from engines.onnx_file import artifact_from_onnx
from harness.adversarial.doubt import Doubts, doubts, parities
from harness.adversarial.make import Job, make_set, needs_of
from harness.adversarial.metrics import CLEAN, Robustnesses, robustness_from_store
from harness.adversarial.models import ENGINE, TWIN, EngineModel, Model, check_source
from harness.adversarial.sets import AdversarialSet
from harness.conditions import pipeline_from_recipe
from harness.errors import HarnessError, unknown
from harness.plan import FP32, INTEGER, Plan, plan
from harness.prepare import Contender, prepare
from harness.progress import Progress
from harness.recipe import Recipe, toml_from_recipe
from harness.registry import twin_opener
from harness.session import execute
from harness.speed import Speed
from harness.store import Store
from noise.adversarial import GRADIENT
from noise.adversarial.base import Budget
from noise.adversarial.recipes import RECIPES

PICTURES = 100  # attacked where the recipe names no limit
THEN = "+"  # between an attack on a twin and one on the engine that goes on from it


@dataclass(frozen=True)
class Request:
    """What is to be made.

    Args:
        attacks: as `harness.registry.attack_from_text` reads them, or ``ATTACK+ATTACK``: the first on the twin, the
            second on the engine from there, or a row of `noise.adversarial.recipes.RECIPES`.
        budgets: how far pictures may be changed, where a recipe does not say so.
        sources: names of what is attacked, twins and contenders; empty for all twins and every integer contender, or
            every contender where none is.
        surrogates: other ONNX files of the same size and classes, whose twins are attacked too.
        doubted: pictures on which masking is looked for; 0 leaves that out.
    """

    attacks: tuple[str, ...]
    budgets: tuple[Budget, ...]
    sources: tuple[str, ...] = ()
    surrogates: tuple[str, ...] = ()
    doubted: int = 20

    def __post_init__(self) -> None:
        if not self.attacks or not self.budgets:
            raise HarnessError("name at least one attack and one budget")
        for attack, _ in self.planned():
            first, _, second = attack.partition(THEN)
            if second and (needs_of(first) != GRADIENT or needs_of(second) == GRADIENT):
                raise HarnessError(
                    f"{attack!r} goes on from an attack by gradients with one by queries, such as apgd-ce{THEN}square"
                )

    def planned(self) -> Iterator[tuple[str, Budget]]:
        """Every attack with every budget, recipes spelt out; one that cascades is one attack."""
        for text in self.attacks:
            recipe = RECIPES.get(text)
            if recipe is None or recipe.cascades:
                yield from ((text, budget) for budget in self.budgets)
            else:
                for each in recipe.attacks:
                    yield from ((each.attack, budget) for budget in ([each.budget] if each.budget else self.budgets))


@dataclass(frozen=True)
class Outcome:
    """What an attack session came to.

    Args:
        found: what is left of every contender under every set.
        twins: twin -> how well it speaks for its engine.
        masking: contender -> the verdict on whether its robustness is only apparent, with all checks.
    """

    found: Robustnesses
    twins: Mapping[str, Any]
    masking: Mapping[str, Any]


def attack(request: Request, recipe: Recipe, out: Path, speed: Speed, progress: Progress) -> Outcome:
    """Make what is missing of the sets, measure them on every contender, and judge.

    Raises:
        HarnessError, NoiseError, ExportError, EngineError: the message says what to change; what was made is kept.
    """
    recipe = replace(recipe, noise=(CLEAN,), limit=recipe.limit or PICTURES)
    made = plan(recipe)
    out.mkdir(parents=True, exist_ok=True)
    store = Store(out)
    with store.locked():
        contenders = prepare(made, store.artifacts, progress)
        with _sources(request, made, contenders, speed) as sources:
            pairs = _twins(contenders)
            sets = _make(request, sources, made, out, progress)
            twins = parities(sources, pairs, made)
            measured = _measured(recipe, sets, out, speed, progress)
            masking = doubts(sources, pairs, sets, Doubts(measured, made, twins, request.doubted), progress)
    return Outcome(robustness_from_store(measured), twins, masking)


@contextmanager
def _sources(request: Request, made: Plan, contenders: Sequence[Contender], speed: Speed) -> Iterator[dict[str, Model]]:
    """Everything that can be attacked, open: the twin of every file, and every contender itself.

    Raises:
        HarnessError: a surrogate has another size of input, or other classes.
    """
    with ExitStack() as stack:
        sources: dict[str, Model] = {}
        for each in contenders:
            model = stack.enter_context(closing(EngineModel(each, made.pipeline, speed.batch)))
            sources[model.name] = model
        new_twin = twin_opener()
        by_name = {each.name: each for each in contenders}
        for twin, contender in _twins(contenders).items():
            sources[twin] = new_twin(twin, by_name[contender].artifact, made.pipeline, speed.batch)
        for path in request.surrogates:
            artifact = artifact_from_onnx(Path(path))
            check_source(artifact, made.artifact)
            pipeline, _ = pipeline_from_recipe(replace(made.recipe, preprocess=""), artifact)
            sources[f"twin-of-{artifact.path.stem}"] = new_twin(
                f"twin-of-{artifact.path.stem}", artifact, pipeline, speed.batch
            )
        yield sources


def _twins(contenders: Sequence[Contender]) -> dict[str, str]:
    """Twin -> the contender whose file it is, and which it is compared with."""
    pairs: dict[str, str] = {}
    for each in contenders:
        if each.version in (FP32, INTEGER):
            pairs.setdefault(twin_name(each.name), each.name)
    return pairs


def _chosen(request: Request, sources: Mapping[str, Model]) -> dict[str, Model]:
    """What the request attacks."""
    for name in request.sources:
        if name not in sources:
            raise unknown("source", name, sources)
    if request.sources:
        return {name: model for name, model in sources.items() if name in request.sources}
    engines = [name for name, model in sources.items() if model.kind == ENGINE]
    asked = [name for name in engines if name.endswith(f":{INTEGER}")] or engines
    return {name: model for name, model in sources.items() if model.kind == TWIN or name in asked}


def _make(
    request: Request, every: Mapping[str, Model], made: Plan, out: Path, progress: Progress
) -> list[AdversarialSet]:
    """Every set of the request: attacks by gradients on twins, attacks by queries on engines."""
    sources = _chosen(request, every)
    sets = []
    for text, budget in request.planned():
        first, _, second = text.partition(THEN)
        by_gradient = needs_of(second or first) == GRADIENT
        for model in sources.values():
            if (model.kind == TWIN) != by_gradient:
                continue
            job = Job(out / "sets" / set_name(model.name, text, budget), model, second or first, budget, made)
            if second:
                twin = every[twin_name(model.name)]
                folder = out / "sets" / set_name(twin.name, first, budget)
                job = replace(job, start=make_set(Job(folder, twin, first, budget, made), progress))
            sets.append(make_set(job, progress))
    if not sets:
        raise HarnessError(f"nothing to attack: {', '.join(request.attacks)} on {', '.join(sources)}")
    return sets


def twin_name(contender: str) -> str:
    """What the twin of a contender is called; the fp32 versions of all engines have one."""
    engine, _, version = contender.rpartition(":")
    return "twin" if version == FP32 else f"twin-{engine}"


def set_name(source: str, attack: str, budget: Budget) -> str:
    """The name of a set, which is a folder and a condition: ``twin.pgd.linf-2-255``."""
    parts = (source, attack.replace(THEN, "-then-"), budget.name)
    return ".".join(re.sub(r"[^A-Za-z0-9=-]+", "-", part) for part in parts)


def _measured(recipe: Recipe, sets: Sequence[AdversarialSet], out: Path, speed: Speed, progress: Progress) -> Store:
    """An ordinary run of the sets, in a folder of its own: with other sets it is another run."""
    whole = replace(recipe, adversarial=tuple(str(each.folder.resolve()) for each in sets))
    text = json.dumps([asdict(whole), [each.key for each in sets]], sort_keys=True)
    store = Store(out / "runs" / hashlib.blake2b(text.encode(), digest_size=4).hexdigest())
    if not store.recipe_path.exists():
        store.create()
        store.write_text(store.recipe_path.name, toml_from_recipe(whole))
        shutil.copytree(Store(out).artifacts, store.artifacts, dirs_exist_ok=True)
    execute(whole, store.folder, speed, progress)
    return store
