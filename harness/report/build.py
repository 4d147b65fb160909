"""Build: the records of a run become a `Report`. Needs no engine and no picture, so it can be redone any time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from harness.estimate import Estimate, Values, average, mcnemar, paired_difference, proportion
from harness.labels import IMAGENET_CLASSES
from harness.looks import z_from_stopping
from harness.mce import ALEXNET_ERROR, SEVERITIES, CorruptionErrors, corruption_errors
from harness.plan import FP32, INTEGER, SIMULATED
from harness.report.cells import Cell, any_failed, cells_from_store, seen_by_all
from harness.report.grid import Grid, grids_from_cells
from harness.report.timing import timing_from_parts
from harness.store import STOPPING, Store

SCHEMA_VERSION = 4
CLEAN = "clean"
ALL = "all noises"

# What separates two versions of one model, and what the difference is called.
STEPS = (
    ("quantisation", FP32, SIMULATED),
    ("kernel", SIMULATED, INTEGER),
    ("total", FP32, INTEGER),
)
# What separates the integer versions of the first engine and of another one.
ENGINE_STEP = "engine"


@dataclass(frozen=True)
class Loss:
    """What going from one contender to another changed, on the same pictures.

    Args:
        step: "quantisation", "kernel" or "total" between versions on one engine; "engine" between the integer versions
            of the first engine and of another one.
        before: contender.
        after: contender.
        difference: accuracy after minus accuracy before.
        better: pictures that only ``after`` got right; for one condition, else ``None``.
        worse: pictures that only ``before`` got right.
        changed: share of pictures whose prediction changed.
        distance: mean `harness.record.logit_distances` of the answers after from those before; none between engines.
        p_value: of McNemar's exact test, mid-p.
    """

    step: str
    before: str
    after: str
    difference: Estimate
    better: int | None
    worse: int | None
    changed: Estimate
    distance: Estimate
    p_value: float | None


@dataclass(frozen=True)
class Row:
    """One line of the report.

    Args:
        kind: "condition" (one setting), "noise" (mean over its settings) or "all" (mean over the noises).
        name: such as "gaussian_noise:3".
        noise: the noise.
        setting: its setting; "" for means.
        cells: contender -> key of the cell; empty for means.
        accuracy: contender -> top-1 accuracy.
        top5: contender -> top-5 accuracy.
        losses: between the versions of each engine.
    """

    kind: str
    name: str
    noise: str
    setting: str
    cells: Mapping[str, str]
    accuracy: Mapping[str, Estimate]
    top5: Mapping[str, Estimate]
    losses: tuple[Loss, ...]

    def losses_of(self, engine: str) -> list[Loss]:
        """The losses between the versions of one engine."""
        return [loss for loss in self.losses if loss.after.rpartition(":")[0] == engine]

    def loss(self, step: str, engine: str) -> Loss | None:
        """The loss of one step on one engine, if both its versions ran."""
        return next((loss for loss in self.losses_of(engine) if loss.step == step), None)


@dataclass(frozen=True)
class Report:
    """Everything that any form of the report shows; `describe` is its JSON (``report/schema.json``).

    ``pictures`` are those that every engine has measured; where one is behind, estimates of others stand on more.
    ``not_run`` holds what was asked for and could not be had: name, noise, setting and reason of each.
    """

    identity: Mapping[str, Any]
    contenders: Mapping[str, Mapping[str, Any]]
    planned_pictures: int
    pictures: int
    failed_pictures: int
    errors: Sequence[Mapping[str, Any]]
    sources: Mapping[str, int]
    rows: tuple[Row, ...]
    not_run: Sequence[Mapping[str, str]]
    certificates: Mapping[str, Mapping[str, Any]]
    findings: Sequence[Mapping[str, Any]]
    timing: Mapping[str, Any]
    stopping: Mapping[str, Any] | None
    corruption_errors: Mapping[str, CorruptionErrors]
    grids: tuple[Grid, ...]

    def describe(self) -> dict[str, Any]:
        """The report as JSON."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}

    def of_kind(self, *kinds: str) -> list[Row]:
        """The rows of these kinds, in order."""
        return [row for row in self.rows if row.kind in kinds]

    @property
    def integer_certificates(self) -> dict[str, Mapping[str, Any]]:
        """The certificates of what ships; those of simulations only prove that nothing ran on integers."""
        return {k: v for k, v in self.certificates.items() if self.contenders[k]["version"] == INTEGER}

    @property
    def clean(self) -> Row | None:
        """The row without noise."""
        return next((row for row in self.rows if row.kind == "condition" and row.noise == CLEAN), None)

    @property
    def overall(self) -> Row | None:
        """The mean over the noises."""
        return next((row for row in self.rows if row.kind == "all"), None)

    def contenders_of(self, engine: str) -> list[str]:
        """The contenders of one engine, in order."""
        return [name for name, facts in self.contenders.items() if facts["engine"] == engine]

    @property
    def engines(self) -> list[str]:
        """The engines, in order."""
        return list(dict.fromkeys(str(facts["engine"]) for facts in self.contenders.values()))


def report_from_store(store: Store) -> Report:
    """The report of what a run has measured so far.

    Raises:
        HarnessError: the folder is not a run, or has measured nothing yet.
    """
    header = store.read_json("run.json")
    identity = header["identity"]
    cells = cells_from_store(store)
    stopping = store.read_json(STOPPING) if store.has(STOPPING) else None
    z = z_from_stopping(stopping)
    conditions = _condition_rows(identity["conditions"], cells, z)
    rows = [*conditions, *_mean_rows(identity["conditions"], cells, z)]
    seen = seen_by_all([cells[key] for each in identity["conditions"] for key in each["cells"].values()])
    errors = store.query(
        "select error, count(distinct sample), min(sample) from records where error is not null "
        "group by error order by 2 desc, 1 limit 20"
    )
    sources = store.query("select source, count(distinct sample) from records group by source order by 2 desc, 1")
    prepared = store.read_json("prepared.json")
    # AlexNet's errors are those on ImageNet; on other classes a ratio to them means nothing.
    on_imagenet = identity["model"]["classes"] == IMAGENET_CLASSES
    return Report(
        identity=identity,
        contenders=prepared["contenders"],
        planned_pictures=identity["data"]["pictures"],
        pictures=seen.pictures,
        failed_pictures=seen.failed,
        errors=[{"error": text, "pictures": count, "first": first} for text, count, first in errors],
        sources=dict(sources),
        rows=tuple(rows),
        not_run=identity["not_run"],
        certificates=prepared["certificates"],
        findings=prepared["findings"],
        timing=timing_from_parts(store.timings()),
        stopping=stopping,
        corruption_errors=_corruption_errors(identity["conditions"], cells, z) if on_imagenet else {},
        grids=grids_from_cells(identity["conditions"], cells, identity["recipe"]["seed"], z),
    )


def _condition_rows(conditions: Sequence[Mapping[str, Any]], cells: Mapping[str, Cell], z: float) -> list[Row]:
    rows = []
    for condition in conditions:
        mine = {name: cells[key] for name, key in condition["cells"].items()}
        rows.append(
            Row(
                kind="condition",
                name=condition["name"],
                noise=condition["noise"],
                setting=condition["setting"],
                cells=condition["cells"],
                accuracy={name: proportion(cell.correct, cell.failed, z) for name, cell in mine.items()},
                top5={name: proportion(cell.top5, cell.failed, z) for name, cell in mine.items()},
                losses=tuple(_losses({name: [cell] for name, cell in mine.items()}, None, z)),
            )
        )
    return rows


def _mean_rows(conditions: Sequence[Mapping[str, Any]], cells: Mapping[str, Cell], z: float) -> list[Row]:
    """A row for every noise with several settings, and one over all noises that are not clean."""
    noises = list(dict.fromkeys(condition["noise"] for condition in conditions))
    groups: dict[str, list[dict[str, Cell]]] = {
        noise: [
            {name: cells[key] for name, key in condition["cells"].items()}
            for condition in conditions
            if condition["noise"] == noise
        ]
        for noise in noises
    }
    rows = [
        _mean_row("noise", noise, {name: [[each[name] for each in group]] for name in group[0]}, z)
        for noise, group in groups.items()
        if len(group) > 1
    ]
    noisy = [group for noise, group in groups.items() if noise != CLEAN]
    if len(noisy) > 1:
        names = noisy[0][0]
        rows.append(
            _mean_row("all", ALL, {name: [[each[name] for each in group] for group in noisy] for name in names}, z)
        )
    return rows


def _mean_row(kind: str, name: str, groups: Mapping[str, list[list[Cell]]], z: float) -> Row:
    """``groups``: contender -> noises -> cells of its settings. Every noise weighs the same."""
    flat = {contender: [cell for group in each for cell in group] for contender, each in groups.items()}
    failed = {contender: any_failed(each) for contender, each in flat.items()}
    return Row(
        kind=kind,
        name=name,
        noise=name,
        setting="",
        cells={},
        accuracy={c: proportion(_mean(each, "correct"), failed[c], z) for c, each in groups.items()},
        top5={c: proportion(_mean(each, "top5"), failed[c], z) for c, each in groups.items()},
        losses=tuple(_losses(flat, {c: _mean(each, "correct") for c, each in groups.items()}, z)),
    )


def _mean(groups: list[list[Cell]], column: str) -> Values:
    means = [np.mean([getattr(cell, column) for cell in group], axis=0) for group in groups]
    mean: Values = np.mean(means, axis=0)
    return mean


def _corruption_errors(
    conditions: Sequence[Mapping[str, Any]], cells: Mapping[str, Cell], z: float
) -> dict[str, CorruptionErrors]:
    """Contender -> its corruption errors; empty where no corruption of ImageNet-C was measured at all severities."""
    settings = {str(level) for level in range(1, SEVERITIES + 1)}
    measured = {
        noise: [each for each in conditions if each["noise"] == noise and each["setting"] in settings]
        for noise in ALEXNET_ERROR
    }
    clean = next((each for each in conditions if each["noise"] == CLEAN), None)
    complete = {noise: group for noise, group in measured.items() if len(group) == SEVERITIES}
    if not complete:
        return {}
    names = [name for name, key in conditions[0]["cells"].items() if len(cells[key].correct)]
    wrong = {
        name: {
            noise: 1 - _mean([[cells[each["cells"][name]] for each in group]], "correct")
            for noise, group in complete.items()
        }
        for name in names
    }
    found = {}
    for name in names:
        original = f"{name.rpartition(':')[0]}:{FP32}"
        used = [cells[each["cells"][name]] for group in complete.values() for each in group]
        found[name] = corruption_errors(
            wrong[name],
            None if clean is None else 1 - cells[clean["cells"][name]].correct,
            wrong.get(original) if original != name else None,
            any_failed(used),
            z,
        )
    return found


def _losses(cells: Mapping[str, list[Cell]], means: Mapping[str, Values] | None, z: float) -> list[Loss]:
    """The losses between the versions of each engine that are present in ``cells``, and between the engines."""
    losses = []
    first_integer = next((name for name in cells if name.rpartition(":")[2] == INTEGER), None)
    for engine in dict.fromkeys(name.rpartition(":")[0] for name in cells):
        for step, first, second in STEPS:
            before, after = f"{engine}:{first}", f"{engine}:{second}"
            if before in cells and after in cells:
                losses.append(_loss(step, before, after, cells, means, z))
        mine = f"{engine}:{INTEGER}"
        if first_integer is not None and mine in cells and mine != first_integer:
            losses.append(_engine_loss(first_integer, mine, cells, means, z))
    return losses


def _engine_loss(
    before: str, after: str, cells: Mapping[str, list[Cell]], means: Mapping[str, Values] | None, z: float
) -> Loss:
    """The loss from one engine to another on the pictures of both: one may be further than the other."""
    _, *places = np.intersect1d(cells[before][0].sample, cells[after][0].sample, return_indices=True)
    both = dict(zip((before, after), places, strict=True))
    return _loss(
        ENGINE_STEP,
        before,
        after,
        {name: [cell.at(where) for cell in cells[name]] for name, where in both.items()},
        None if means is None else {name: means[name][where] for name, where in both.items()},
        z,
    )


def _loss(
    step: str, before: str, after: str, cells: Mapping[str, list[Cell]], means: Mapping[str, Values] | None, z: float
) -> Loss:
    first, second = cells[before], cells[after]
    failed = any_failed([*first, *second])
    changed = np.mean([old.prediction != new.prediction for old, new in zip(first, second, strict=True)], axis=0)
    distance = _distance(
        [] if step == ENGINE_STEP else [cell.distances[before.rpartition(":")[2]] for cell in second], z
    )
    if means is not None:
        difference = paired_difference(means[before], means[after], failed, z)
        return Loss(step, before, after, difference, None, None, proportion(changed, failed, z), distance, None)
    old, new = first[0].correct, second[0].correct
    better, worse = int((new > old).sum()), int((old > new).sum())
    return Loss(
        step,
        before,
        after,
        paired_difference(old, new, failed, z),
        better,
        worse,
        proportion(changed.astype(np.float64), failed, z),
        distance,
        mcnemar(better, worse) if len(old) else None,
    )


def _distance(cells: Sequence[Values], z: float) -> Estimate:
    """The mean over pictures of each picture's mean over cells; a picture that lacks one answer has failed."""
    if not cells:
        return average(np.array([]), 0, "relative distance", z)
    means = np.mean(cells, axis=0)
    known = np.isfinite(means)
    return average(means[known], int((~known).sum()), "relative distance", z)
