"""Quantities: the numbers of a report that a rule may bound, and where in a run each of them stands.

A new quantity is one function and one row of `QUANTITIES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import HarnessError, unknown
from harness.estimate import Estimate, scaled, wilson
from harness.labels import IMAGENET_CLASSES
from harness.looks import z_from_stopping
from harness.mce import ALEXNET_ERROR, SEVERITIES
from harness.plan import INTEGER, Plan
from harness.report.build import ALL, CLEAN, ENGINE_STEP, STEPS, Loss, Report, Row

if TYPE_CHECKING:
    from harness.against import Baseline

EVERY = "*"  # in the place of a noise: each condition by itself; of an engine: each that has what is asked for
PERCENT, POINTS = "%", "points"


@dataclass(frozen=True)
class Grid:
    """What a run measures; known before its first picture.

    Args:
        conditions: pairs of noise and setting, in the order of the report.
        contenders: pairs of engine and version, in the order of the report.
        classes: of the model.
        against: whether another run is there to compare with.
    """

    conditions: tuple[tuple[str, str], ...]
    contenders: tuple[tuple[str, str], ...]
    classes: int
    against: bool = False

    @property
    def engines(self) -> list[str]:
        """The engines, in order."""
        return list(dict.fromkeys(engine for engine, _ in self.contenders))

    @property
    def settings(self) -> dict[str, list[str]]:
        """Noise -> its settings, in order."""
        found: dict[str, list[str]] = {}
        for noise, setting in self.conditions:
            found.setdefault(noise, []).append(setting)
        return found

    def rows(self, name: str) -> list[str]:
        """The rows of the report that a name stands for: a condition, the mean of a noise, `ALL`, or `EVERY` condition.

        Raises:
            HarnessError: this run measures no such noise.
        """
        settings = self.settings
        if name == EVERY:
            return [_condition(*each) for each in self.conditions]
        if name == ALL:
            noisy = [noise for noise in settings if noise != CLEAN]
            if not noisy:
                lack = "and this run measures clean pictures only; measure one, or leave the rule out"
                raise HarnessError(f"{ALL!r} needs a noise, {lack}")
            return [ALL] if len(noisy) > 1 else self.rows(noisy[0])
        noise, _, setting = name.partition(":")
        if noise not in settings:
            raise unknown("noise in this run", noise, [*settings, ALL, EVERY])
        if setting and setting not in settings[noise]:
            raise unknown(f"setting of {noise!r} in this run", setting, settings[noise])
        if setting or len(settings[noise]) > 1:
            return [name]
        return [_condition(noise, settings[noise][0])]


def grid_from_plan(made: Plan) -> Grid:
    """What a run of the plan will measure."""
    conditions = tuple((each.noise, each.setting) for each in made.conditions)
    return Grid(conditions, made.versions, made.artifact.class_count)


def grid_from_report(report: Report, *, against: bool = False) -> Grid:
    """What a run has measured."""
    conditions = tuple((each["noise"], each["setting"]) for each in report.identity["conditions"])
    contenders = tuple((str(each["engine"]), str(each["version"])) for each in report.contenders.values())
    return Grid(conditions, contenders, report.identity["model"]["classes"], against)


@dataclass(frozen=True)
class Place:
    """Where in a run a quantity is read; what it does not depend on is "".

    Args:
        row: name of a row of the report.
        engine: one of the run's.
        version: of the model.
        step: between two versions or engines, as `harness.report.build.Loss` has it.
    """

    row: str = ""
    engine: str = ""
    version: str = ""
    step: str = ""

    def __str__(self) -> str:
        contender = f"{self.engine}:{self.version}" if self.version else self.engine
        return ", ".join(part for part in (self.row, contender) if part)


@dataclass(frozen=True)
class Evidence:
    """What a verdict stands on.

    Args:
        report: of the run that is judged.
        baseline: the run that it is compared with; ``None`` where it stands alone.
    """

    report: Report
    baseline: Baseline | None = None

    def row(self, place: Place) -> Row:
        """The row of the report at a place."""
        return next(row for row in self.report.rows if row.name == place.row)

    def loss(self, place: Place) -> Loss:
        """The loss of a step at a place."""
        found = self.row(place).loss(place.step, place.engine)
        if found is None:
            raise LookupError(f"the grid has {place.step} of {place}, and the report has not")
        return found


@dataclass(frozen=True)
class Quantity:
    """A row of the table.

    Args:
        about: what it is, for people.
        unit: of its bounds: `PERCENT` or `POINTS`.
        keys: of a rule that say where it is read, of "noise", "engine", "version" and "step".
        read: its estimate at a place, in the unit.
        lack: what a run lacks that has it nowhere; "" where nothing.
    """

    about: str
    unit: str
    keys: tuple[str, ...]
    read: Callable[[Evidence, Place], Estimate]
    lack: Callable[[Grid], str] = lambda _: ""


def engines_with_step(grid: Grid, step: str) -> list[str]:
    """The engines of a run between whose versions there is such a step."""
    if step == ENGINE_STEP:
        return [engine for engine, version in grid.contenders if version == INTEGER][1:]
    needed = next({before, after} for name, before, after in STEPS if name == step)
    return [engine for engine in grid.engines if {(engine, version) for version in needed} <= set(grid.contenders)]


def engines_with_version(grid: Grid, wanted: str) -> list[str]:
    """The engines of a run that ran such a version."""
    return [engine for engine, version in grid.contenders if version == wanted]


def _condition(noise: str, setting: str) -> str:
    return f"{noise}:{setting}" if setting else noise


def _accuracy(evidence: Evidence, place: Place) -> Estimate:
    return scaled(evidence.row(place).accuracy[f"{place.engine}:{place.version}"], 100, PERCENT)


def _top5(evidence: Evidence, place: Place) -> Estimate:
    return scaled(evidence.row(place).top5[f"{place.engine}:{place.version}"], 100, PERCENT)


def _drop(evidence: Evidence, place: Place) -> Estimate:
    return scaled(evidence.loss(place).difference, -100, POINTS)


def _changed(evidence: Evidence, place: Place) -> Estimate:
    return scaled(evidence.loss(place).changed, 100, PERCENT)


def _integer_share(evidence: Evidence, place: Place) -> Estimate:
    """A fact of the file and the kernels, so without an interval; none where nothing is multiplied."""
    share = evidence.report.certificates[f"{place.engine}:{INTEGER}"]["integer_fraction"]
    return scaled(Estimate(share, share, share, 0, 0, "fraction"), 100, PERCENT)


def _failed(evidence: Evidence, _: Place) -> Estimate:
    report = evidence.report
    share = report.failed_pictures / report.pictures
    low, high = wilson(share, report.pictures, z_from_stopping(report.stopping))
    return scaled(Estimate(share, low, high, report.pictures, report.failed_pictures, "fraction"), 100, PERCENT)


def _mce(evidence: Evidence, place: Place) -> Estimate:
    return _of_alexnet(evidence.report.corruption_errors[f"{place.engine}:{place.version}"].mce)


def _relative_mce(evidence: Evidence, place: Place) -> Estimate:
    return _of_alexnet(evidence.report.corruption_errors[f"{place.engine}:{place.version}"].relative)


def _of_alexnet(ratio: Estimate | None) -> Estimate:
    return Estimate(None, None, None, 0, 0, PERCENT) if ratio is None else scaled(ratio, 100, PERCENT)


def _change(evidence: Evidence, place: Place) -> Estimate:
    if evidence.baseline is None:
        raise LookupError("a change is read without a run to compare with")
    return scaled(evidence.baseline.change(place.row, f"{place.engine}:{place.version}"), 100, POINTS)


def _lack_of_corruptions(grid: Grid) -> str:
    if grid.classes != IMAGENET_CLASSES:
        return f"a model of ImageNet's {IMAGENET_CLASSES:,} classes; this one has {grid.classes}"
    complete = {str(level) for level in range(1, SEVERITIES + 1)}
    missing = [noise for noise in ALEXNET_ERROR if not complete <= set(grid.settings.get(noise, ()))]
    return f"all severities of {', '.join(missing)}" if missing else ""


def _lack_of_clean_and_corruptions(grid: Grid) -> str:
    return _lack_of_corruptions(grid) or ("" if CLEAN in grid.settings else "clean pictures")


def _lack_of_baseline(grid: Grid) -> str:
    return "" if grid.against else "a run to compare with: qharness gate RUN --against OTHER"


_VERSION = ("noise", "engine", "version")
_STEP = ("noise", "engine", "step")

QUANTITIES = {
    "accuracy": Quantity("top-1 accuracy", PERCENT, _VERSION, _accuracy),
    "top5": Quantity("top-5 accuracy", PERCENT, _VERSION, _top5),
    "drop": Quantity("top-1 accuracy lost in a step, paired; less than 0 is a gain", POINTS, _STEP, _drop),
    "changed": Quantity("predictions that a step changed, right or wrong", PERCENT, _STEP, _changed),
    "integer_share": Quantity(
        "multiply-accumulates that ran on integer kernels, by the certificate", PERCENT, ("engine",), _integer_share
    ),
    "failed": Quantity("pictures that failed somewhere", PERCENT, (), _failed),
    "mce": Quantity("mean corruption error, 100 for AlexNet", PERCENT, _VERSION[1:], _mce, _lack_of_corruptions),
    "relative_mce": Quantity(
        "relative mCE, 100 for AlexNet", PERCENT, _VERSION[1:], _relative_mce, _lack_of_clean_and_corruptions
    ),
    "change": Quantity(
        "top-1 accuracy here minus that of the run --against, paired; less than 0 is a loss",
        POINTS,
        _VERSION,
        _change,
        _lack_of_baseline,
    ),
}
