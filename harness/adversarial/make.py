"""Make: an attack on a model becomes an adversarial set. It may be killed at any moment and continued."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from engines.base import EngineError
from harness.adversarial.models import Levels, Model, steps_in_front
from harness.adversarial.sets import ADVERSARIAL, AdversarialSet, set_from_folder
from harness.corrupt import PNG, stored_name
from harness.environment import environment
from harness.errors import HarnessError
from harness.manifest import MANIFEST, MANIFEST_VERSION, Entry, Manifest, whole_file
from harness.plan import Plan
from harness.preprocess import Tree, compile_tree
from harness.progress import Progress
from harness.registry import attack_from_text, attack_needs
from harness.samples import Sample
from harness.store import Store
from noise.adversarial import GRADIENT
from noise.adversarial.base import (
    Attack,
    Budget,
    Pictures,
    RefiningAttack,
    levels_from_attacked,
    pictures_from_levels,
)
from noise.adversarial.ledger import Account, Ledger, OnFinished
from noise.adversarial.query.attack import QueryAttack
from noise.adversarial.recipes import RECIPES
from noise.seed import generator

# Pictures that climb together. Results do not depend on it; what a kill loses does.
TOGETHER = 16
# Pictures that one ledger is given, which hands each on as soon as it is done. At 224 x 224 they take 0.3 GB.
IN_ONE_LEDGER = 512

Keep = Callable[[Entry], None]


@dataclass(frozen=True)
class Job:
    """One set to be made.

    Args:
        folder: of the set.
        model: that is attacked.
        attack: as `harness.registry.attack_from_text` reads it.
        budget: how far pictures may be changed.
        made: the plan whose scored pictures are attacked.
        start: a set of the same pictures and budget, from which the attack goes on.
    """

    folder: Path
    model: Model
    attack: str
    budget: Budget
    made: Plan
    start: AdversarialSet | None = None

    @cached_property
    def tree(self) -> Tree:
        """From encoded pictures to what is attacked."""
        return compile_tree([steps_in_front(self.made.pipeline)])

    def header(self) -> Entry:
        """Everything that the pictures depend on, but for the originals."""
        artifact = self.made.artifact
        return {
            "manifest": MANIFEST_VERSION,
            ADVERSARIAL: {
                "source": dict(self.model.describe()),
                "attack": self.attack,
                "start": None if self.start is None else {"name": self.start.name, "made": dict(self.start.made)},
                "needs": needs_of(self.attack),
                "norm": self.budget.norm,
                "epsilon": self.budget.epsilon,
                "budget": self.budget.name,
                "below_a_level": self.budget.below_a_level,
                "seed": self.made.recipe.seed,
                "size": list(artifact.size),
                "classes": artifact.class_count,
                "class_names": list(artifact.classes or ()),
            },
            "preprocessing": steps_in_front(self.made.pipeline).describe(),
            "environment": environment(),
        }


class Target(NamedTuple):
    """A picture that is to be attacked: its sample, the SHA-256 of its file, and uint8 [3, H, W]."""

    sample: Sample
    sha256: str
    levels: Levels


def make_set(job: Job, progress: Progress) -> AdversarialSet:
    """Attack what the set does not hold yet.

    Raises:
        HarnessError: the folder holds something else, or the disk is full. What was attacked is kept.
        NoiseError: the attack cannot do what was asked.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    store = Store(job.folder)
    with store.locked():
        _refuse_others(job.folder)
        manifest = Manifest(store, job.header())
        samples = job.made.scored.samples
        missing = [each for each in samples if not _intact(job, manifest.entry(each.id))]
        done = len(samples) - len(missing)
        together = TOGETHER if GRADIENT in map(attack_needs, parts_of(job.attack)) else IN_ONE_LEDGER
        with progress.task(f"attack {job.folder.name}", total=len(samples), done=done) as advance:

            def keep(entry: Entry) -> None:
                manifest.append(entry)
                advance()

            for at in range(0, len(missing), together):
                _attack_samples(job, missing[at : at + together], keep)
        manifest.sort()
    return set_from_folder(job.folder)


def _refuse_others(folder: Path) -> None:
    if not (folder / MANIFEST).exists() and any(not each.name.startswith(".") for each in folder.iterdir()):
        raise HarnessError(f"{folder} is not empty and has no {MANIFEST}; choose another folder with -o")


def _intact(job: Job, entry: Entry | None) -> bool:
    """Whether a line is there, and its file with the bytes that the line knows."""
    if entry is None or "error" in entry:
        return False
    try:
        return bool(hashlib.sha256((job.folder / entry["file"]).read_bytes()).hexdigest() == entry["sha256"])
    except OSError:
        return False


def _attack_samples(job: Job, samples: Sequence[Sample], keep: Keep) -> None:
    """Attack some pictures, and keep the line of each when its file is in place."""
    targets: list[Target] = []
    for sample in samples:
        ready = _target(job.tree, sample, job.made)
        if isinstance(ready, Target):
            targets.append(ready)
        else:
            keep({"picture": sample.id, "label": sample.label, "error": ready})
    if targets:
        _attack_targets(job, targets, keep)


def _attack_targets(job: Job, targets: Sequence[Target], keep: Keep) -> None:
    """Where an engine fails, what was not kept yet is halved until the picture at which it does is alone."""
    left = dict(enumerate(targets))

    def finished(place: int, best: Pictures, account: Account) -> None:
        for entry in _entries(job, [targets[place]], best[None], [account]):
            keep(entry)
        del left[place]

    try:
        attacked, accounts = _run_attack(job, targets, finished)
        rows = list(left)
        if rows:
            rest = [accounts[row] for row in rows] if accounts else []
            for entry in _entries(job, [targets[row] for row in rows], attacked[rows], rest):
                keep(entry)
    except EngineError as error:
        failed = list(left.values())
        if len(failed) == 1:
            sample = failed[0].sample
            keep({"picture": sample.id, "label": sample.label, "error": f"engine: {error}"})
            return
        half = len(failed) // 2
        for part in (failed[:half], failed[half:]):
            _attack_targets(job, part, keep)


def pictures_of(made: Plan, count: int) -> list[Target]:
    """The first scored pictures that can be read, as an attack is given them.

    Raises:
        HarnessError: none can.
    """
    tree = compile_tree([steps_in_front(made.pipeline)])
    ready = (_target(tree, sample, made) for sample in made.scored.samples)
    targets = list(islice((each for each in ready if isinstance(each, Target)), count))
    if not targets:
        raise HarnessError(f"no picture of {made.scored.source} can be read")
    return targets


def _target(tree: Tree, sample: Sample, made: Plan) -> Target | str:
    """A picture at the model's size, or what failed."""
    try:
        data = sample.read()
    except OSError as error:
        return f"read: {error}"
    prepared = next(tree.walk(data, sample.id, made.recipe.seed))
    if prepared.tensor is None:
        return str(prepared.error)
    levels: Levels = np.ascontiguousarray(prepared.tensor.transpose(2, 0, 1))
    if levels.shape[1:] != made.artifact.size:
        return f"the pipeline makes {list(levels.shape[1:])}, and the model takes {list(made.artifact.size)}"
    return Target(sample, hashlib.sha256(data).hexdigest(), levels)


def _entries(job: Job, targets: Sequence[Target], attacked: Pictures, accounts: Sequence[Account]) -> list[Entry]:
    """The lines of attacked pictures, their files in place.

    Raises:
        HarnessError: the attack left its budget.
    """
    originals = np.stack([target.levels for target in targets])
    pictures = pictures_from_levels(originals)
    outside = int((~job.budget.holds(attacked, pictures)).sum())
    if outside:
        raise HarnessError(f"{job.attack} left its budget {job.budget.name} on {outside} of {len(targets)} pictures")
    stored = levels_from_attacked(attacked, originals, job.budget)
    given = pictures_from_levels(stored)
    answers = job.model.logits(np.concatenate([pictures, attacked, given])).argmax(axis=1).reshape(3, -1)
    columns: dict[str, Sequence[Any]] = {
        **dict(zip(("clean", "attacked", "stored"), answers.tolist(), strict=True)),
        "distance": job.budget.distance(attacked, pictures).tolist(),
        "stored_distance": job.budget.distance(given, pictures).tolist(),
    }
    if accounts:
        columns["queries"] = [account.queries for account in accounts]
        columns["broken_at"] = [account.broken_at for account in accounts]
    entries = []
    for row, target in enumerate(targets):
        name = stored_name(target.sample.id, PNG)
        content = _png(stored[row])
        with whole_file(job.folder / name) as file:
            file.write(content)
        entries.append(
            {
                "picture": target.sample.id,
                "label": target.sample.label,
                "source_sha256": target.sha256,
                "file": name,
                "sha256": hashlib.sha256(content).hexdigest(),
                **{column: values[row] for column, values in columns.items()},
            }
        )
    return entries


def _run_attack(job: Job, targets: Sequence[Target], on_finished: OnFinished) -> tuple[Pictures, Sequence[Account]]:
    """The attacked pictures, and where an attack asks for its answers an account of each.

    Args:
        on_finished: is called while others are still searched for, where the attack is one by queries alone.

    Raises:
        HarnessError: an attack by queries has no account for each picture.
    """
    pictures = pictures_from_levels(np.stack([target.levels for target in targets]))
    labels = np.array([target.sample.label for target in targets], np.int64)
    ids = [target.sample.id for target in targets]
    attacked, accounts = pictures.copy(), [Account()] * len(targets)
    standing = np.arange(len(targets))
    parts = parts_of(job.attack)
    for number, text in enumerate(parts):
        if number:
            standing = standing[job.model.logits(attacked[standing]).argmax(axis=1) == labels[standing]]
            if not len(standing):
                break
        needs = attack_needs(text)
        model = job.model.gradients() if needs == GRADIENT else job.model.ledger(needs)
        attack, given = attack_from_text(text, job.budget), (pictures[standing], labels[standing])
        if len(parts) == 1 and isinstance(attack, QueryAttack):
            model.on_finished = on_finished
        rngs = [generator(job.made.recipe.seed, f"{text} {job.budget.name}", ids[row]) for row in standing.tolist()]
        if job.start is None:
            attacked[standing] = attack(model, *given, rngs)
        else:
            starts = np.stack([_stored_picture(job.start, each) for each in ids])
            attacked = refining(attack, text).refine(model, *given, starts, rngs)
        if isinstance(model, Ledger):
            if len(model.accounts) != len(standing):
                raise HarnessError(
                    f"the attack {text!r} must search for each picture once; of {len(standing)} pictures it searched "
                    f"for {len(model.accounts)}"
                )
            for row, account in zip(standing.tolist(), model.accounts, strict=True):
                accounts[row] = account
    asks = any(attack_needs(text) != GRADIENT for text in parts)
    return attacked, accounts if asks else ()


def parts_of(attack: str) -> tuple[str, ...]:
    """The attacks that one stands for: a recipe that cascades is several, each on what stands after those before."""
    recipe = RECIPES.get(attack)
    return (attack,) if recipe is None else tuple(each.attack for each in recipe.attacks)


def needs_of(attack: str) -> str:
    """What the first of them needs of a model."""
    return attack_needs(parts_of(attack)[0])


def refining(attack: Attack, name: str) -> RefiningAttack:
    """The attack as one that goes on from given pictures.

    Raises:
        HarnessError: it cannot.
    """
    if not isinstance(attack, RefiningAttack):
        raise HarnessError(f"{name} cannot go on from what another attack found; square can")
    return attack


def _stored_picture(made: AdversarialSet, picture: str) -> Pictures:
    """float32 [3, H, W] in [0, 1], of a set."""
    levels = np.asarray(Image.open(made.folder / made.entries[picture]["file"])).transpose(2, 0, 1)
    return pictures_from_levels(levels)


def _png(levels: Levels) -> bytes:
    stored = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(levels.transpose(1, 2, 0))).save(stored, format="PNG")
    return stored.getvalue()
