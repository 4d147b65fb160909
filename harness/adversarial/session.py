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

from engines.base import EngineUnavailable
from engines.onnx_file import artifact_from_onnx
from exporters.base import ExportError
from harness.adversarial.doubt import Doubts, doubts, parities
from harness.adversarial.make import Job, make_set, needs_of, parts_of, refining
from harness.adversarial.metrics import CLEAN, Robustnesses, robustness_from_store
from harness.adversarial.models import ENGINE, TWIN, EngineModel, Model, check_source
from harness.adversarial.sets import AdversarialSet
from harness.conditions import pipeline_from_recipe
from harness.errors import HarnessError, unknown
from harness.plan import FP32, INTEGER, Plan, plan
from harness.prepare import Contender, prepare
from harness.progress import Progress
from harness.recipe import Recipe, toml_from_recipe
from harness.registry import attack_from_text, twin_opener
from harness.session import execute
from harness.speed import Speed
from harness.store import Store
from noise.adversarial import GRADIENT
from noise.adversarial.base import L1, L2, LINF, Budget
from noise.adversarial.recipes import RECIPES

PICTURES = 100  # attacked where the recipe names no limit
DEFAULT_BUDGETS = (Budget(LINF, 2 / 255), Budget(LINF, 4 / 255))
THEN = "+"  # between an attack on a twin and one on the engine that goes on from it


@dataclass(frozen=True)
class Request:
    """What is to be made.

    Args:
        attacks: as `harness.registry.attack_from_text` reads them, or ``ATTACK+ATTACK``: the first on the twin, the
            second on the engine from there, or a row of `noise.adversarial.recipes.RECIPES`.
        budgets: how far pictures may be changed; ``None`` for what a recipe says, else `DEFAULT_BUDGETS`.
        sources: names of what is attacked, twins and contenders; empty for all twins and every integer contender, or
            every contender where none is.
        surrogates: other ONNX files of the same size and classes, whose twins are attacked too.
        doubted: pictures on which masking is looked for; 0 leaves that out.
    """

    attacks: tuple[str, ...]
    budgets: tuple[Budget, ...] | None = None
    sources: tuple[str, ...] = ()
    surrogates: tuple[str, ...] = ()
    doubted: int = 20

    def __post_init__(self) -> None:
        if not self.attacks or self.budgets == ():
            raise HarnessError("name at least one attack and one budget")
        if self.doubted < 0:
            raise HarnessError(f"masking is looked for on 0 pictures (not at all) or more; got {self.doubted}")
        for text in self.attacks:
            self._check(text)
        for text, budget in self.planned():
            first, _, second = text.partition(THEN)
            for part in parts_of(first):
                attack_from_text(part, budget)
            if second:
                refining(attack_from_text(second, budget), second)
        names = [surrogate_name(each) for each in self.surrogates]
        for name in names:
            if names.count(name) > 1:
                raise HarnessError(f"two surrogates would be called {name}; rename the file of one")
        if names and not self.by_gradients:
            raise HarnessError("surrogates are attacked by gradients; name such an attack, such as pgd, beside them")

    def _check(self, text: str) -> None:
        """See that the parts of an attack, or a recipe and the budgets, go together."""
        recipe = RECIPES.get(text)
        if recipe is not None and self.budgets is not None and all(each.budget for each in recipe.attacks):
            raise HarnessError(
                f"{text} has budgets of its own, got {', '.join(each.name for each in self.budgets)} beside them; "
                f"attack with it in a command of its own, without --budgets"
            )
        first, _, second = text.partition(THEN)
        if not second:
            return
        for part in (first, second):
            if part in RECIPES and not RECIPES[part].cascades:
                raise HarnessError(f"{part} of {text!r} is a list of attacks, each for itself; name one of them")
        if needs_of(first) != GRADIENT or needs_of(second) == GRADIENT:
            raise HarnessError(
                f"{text!r} goes on from an attack by gradients with one by queries, such as apgd-ce{THEN}square"
            )

    @property
    def by_gradients(self) -> bool:
        """Whether an attack, or where one begins, needs a twin."""
        return any(needs_of(attack.partition(THEN)[0]) == GRADIENT for attack, _ in self.planned())

    @property
    def wants_twins(self) -> bool:
        """Whether twins are opened: for an attack, or to look for masking where there are any."""
        return self.by_gradients or self.doubted > 0

    def planned(self) -> Iterator[tuple[str, Budget]]:
        """Every attack with every budget, recipes spelt out; one that cascades is one attack."""
        budgets = DEFAULT_BUDGETS if self.budgets is None else self.budgets
        for text in self.attacks:
            recipe = RECIPES.get(text)
            if recipe is None or recipe.cascades:
                yield from ((text, budget) for budget in budgets)
            else:
                for each in recipe.attacks:
                    yield from ((each.attack, budget) for budget in ([each.budget] if each.budget else budgets))


@dataclass(frozen=True)
class Sources:
    """What can be attacked, and what cannot.

    Args:
        models: by name. Engines that share a file share its twin, under the name of each.
        pairs: twin -> the contender whose file it is.
        absent: twins that could not be opened, as `Outcome.twins` has them.
    """

    models: Mapping[str, Model]
    pairs: Mapping[str, str]
    absent: Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What an attack session came to.

    Args:
        found: what is left of every contender under every set.
        twins: twin -> how well it speaks for its engine, or that there is none, with the reason. Empty where none
            was needed.
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
    _check_plan(request, made)
    out.mkdir(parents=True, exist_ok=True)
    store = Store(out)
    with store.locked():
        contenders = prepare(made, store.artifacts, progress)
        with _sources(request, made, contenders, speed) as sources:
            models, pairs = sources.models, sources.pairs
            sets = _make(request, models, made, out, progress)
            twins = {**parities(models, pairs, made), **sources.absent}
            measured = _measured(recipe, sets, out, speed, progress)
            masking = doubts(models, pairs, sets, Doubts(measured, made, twins, request.doubted), progress)
    return Outcome(robustness_from_store(measured), twins, masking)


def _check_plan(request: Request, made: Plan) -> None:
    """See, before anything is calibrated or attacked, that the request fits the model.

    Raises:
        HarnessError: an unknown source, nothing that the attacks could be made on, a budget beyond every picture, or a
            surrogate with another size of input or other classes.
        ExportError, EngineUnavailable: an attack needs gradients, and the file has no twin, or torch is missing.
    """
    height, width = made.artifact.size
    beyond = {LINF: 1.0, L2: (3 * height * width) ** 0.5, L1: 3.0 * height * width}
    for text, budget in request.planned():
        if budget.epsilon >= beyond[budget.norm]:
            raise HarnessError(
                f"{budget.name} of {text} leads from any picture of {width} x {height} pixels to any other "
                f"({beyond[budget.norm]:.6g} is black to white): pictures are from 0 to 1, so {budget.epsilon:g} in "
                f"grey levels is written {budget.norm}:{budget.epsilon:g}/255"
            )
    for path in request.surrogates:
        check_source(artifact_from_onnx(Path(path)), made.artifact)
    if request.by_gradients:
        # What the file itself lacks, its quantised versions lack too.
        twin_opener()("twin", made.artifact, made.pipeline, 1)
    contenders = [f"{engine}:{version}" for engine, version in made.versions]
    twins = [twin_name(f"{engine}:{version}") for engine, version in made.versions if version in (FP32, INTEGER)]
    twins += map(surrogate_name, request.surrogates)
    for name in request.sources:
        if name not in (*contenders, *twins):
            raise unknown("source", name, (*contenders, *dict.fromkeys(twins)))
    attacked = set(request.sources or (*_asked_unless_named(contenders), *twins))
    for text in dict.fromkeys(text for text, _ in request.planned()):
        on_twin = needs_of(text.rpartition(THEN)[2]) == GRADIENT
        if attacked.isdisjoint(twins if on_twin else contenders):
            raise HarnessError(
                f"nothing to attack: {text} is for {'a twin' if on_twin else 'an engine'}, and the sources are "
                f"{', '.join(sorted(attacked))}"
            )
        if THEN in text:
            _check_starts(text, [name for name in contenders if name in attacked], twins)


def _check_starts(text: str, contenders: Sequence[str], twins: Sequence[str]) -> None:
    for name in contenders:
        if twin_name(name) not in twins:
            raise HarnessError(
                f"{text} on {name} goes on from {twin_name(name)}, that of {name.rpartition(':')[0]}:{INTEGER}; "
                f"name it among the --engines too"
            )


@contextmanager
def _sources(request: Request, made: Plan, contenders: Sequence[Contender], speed: Speed) -> Iterator[Sources]:
    """Everything that can be attacked, open: every contender itself, and where they are needed the twins.

    Raises:
        ExportError, EngineUnavailable: a file has no twin, or torch is missing, and an attack needs gradients.
    """
    with ExitStack() as stack:
        models: dict[str, Model] = {}
        for each in contenders:
            models[each.name] = stack.enter_context(closing(EngineModel(each, made.pipeline, speed.batch)))
        twins, absent = _open_twins(request, made, contenders, speed) if request.wants_twins else ({}, {})
        yield Sources(
            {**models, **twins}, {twin: of for twin, of in _twins(contenders).items() if twin in twins}, absent
        )


def _open_twins(
    request: Request, made: Plan, contenders: Sequence[Contender], speed: Speed
) -> tuple[dict[str, Model], dict[str, Any]]:
    """The twin of every file, a file of two engines opened once; and the twins that are not, with the reason."""
    by_name = {each.name: each for each in contenders}
    by_file: dict[str, Model] = {}
    twins: dict[str, Model] = {}
    absent = {}
    for twin, contender in _twins(contenders).items():
        artifact = by_name[contender].artifact
        try:
            if artifact.sha256 not in by_file:
                by_file[artifact.sha256] = twin_opener()(twin, artifact, made.pipeline, speed.batch)
            twins[twin] = by_file[artifact.sha256]
        except (ExportError, EngineUnavailable) as error:
            if request.by_gradients:
                raise
            absent[twin] = {"engine": contender, "speaks": False, "reason": f"no twin because {error}"}
    for path in request.surrogates:
        artifact = artifact_from_onnx(Path(path))
        pipeline, _ = pipeline_from_recipe(replace(made.recipe, preprocess=""), artifact)
        name = surrogate_name(path)
        twins[name] = twin_opener()(name, artifact, pipeline, speed.batch)
    return twins, absent


def _twins(contenders: Sequence[Contender]) -> dict[str, str]:
    """Twin -> the contender whose file it is, and which it is compared with."""
    pairs: dict[str, str] = {}
    for each in contenders:
        if each.version in (FP32, INTEGER):
            pairs.setdefault(twin_name(each.name), each.name)
    return pairs


def _chosen(request: Request, sources: Mapping[str, Model]) -> dict[str, Model]:
    """What the request attacks: each model once, however many names it has."""
    if request.sources:
        chosen = [sources[name] for name in request.sources if name in sources]
    else:
        asked = _asked_unless_named([name for name, model in sources.items() if model.kind == ENGINE])
        chosen = [model for name, model in sources.items() if model.kind == TWIN or name in asked]
    return {model.name: model for model in chosen}


def _asked_unless_named(contenders: Sequence[str]) -> Sequence[str]:
    return [name for name in contenders if name.endswith(f":{INTEGER}")] or contenders


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


def surrogate_name(path: str) -> str:
    """What the twin of another file is called."""
    return f"twin-of-{Path(path).stem}"


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
