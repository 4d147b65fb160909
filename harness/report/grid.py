"""Grid: noises that change several things at once, each setting one combination; how much each thing moves accuracy.

A noise is a grid when its settings are ``A+X``, ``A+Y``, ``B+X``, ``B+Y``: every choice of the first factor with every
one of the second. Precision, the versions of the model on one engine, is one more factor.

The accuracies of a grid are decomposed as in an analysis of variance with fixed effects: each term is what is left of
the cell means when all terms of fewer factors are taken away. Its size is the root of its mean square over the cells.
Chance makes every term larger than it is: with X_i the answers for picture i in all cells, X their mean and P the
projection on the term, |P X|² exceeds the true one by sum_i |P (X_i - X)|² / (n (n - 1)) on average. That is taken
away, and twice from a resample of the pictures, which adds its own chance to that of the sample. The intervals are
approximate: in simulations they cover the truth in somewhat less than 95 %, most so for the term of precision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.estimate import Estimate, Values, proportion
from harness.plan import FP32, INTEGER
from harness.report.cells import Cell, any_failed

JOIN = "+"
RESAMPLES = 400
PRECISION = "precision"


@dataclass(frozen=True)
class Spread:
    """One contender over all settings of a noise.

    Args:
        mean: accuracy, the mean over settings.
        deviation: population standard deviation of the settings' accuracies, 0 to 1.
        worst: the setting with the lowest accuracy.
        lowest: that accuracy, with the interval of one setting that was chosen before: a minimum of many is lower than
            its setting's own accuracy on average, so the interval holds less often than it says.
    """

    mean: Estimate
    deviation: float
    worst: str
    lowest: Estimate


@dataclass(frozen=True)
class Term:
    """How much one factor, or several together beyond what each does alone, moves accuracy on one engine.

    Args:
        factors: names, such as "precision" and "resize".
        size: root mean square over the cells, chance taken away, 0 to 1; with the middle 95 % of resampled pictures.
        observed: the same with chance.
        chance: what chance alone makes of it.
    """

    factors: tuple[str, ...]
    size: Estimate
    observed: float
    chance: float


@dataclass(frozen=True)
class Grid:
    """One noise.

    Args:
        noise: its name.
        levels: factor -> its choices.
        spreads: contender -> its spread; one whose engine has no picture yet is missing.
        terms: engine -> its terms, few factors first; without an fp32 and an integer version, or below two pictures,
            from which nothing can be said of chance, the engine is missing.
    """

    noise: str
    levels: Mapping[str, tuple[str, ...]]
    spreads: Mapping[str, Spread]
    terms: Mapping[str, tuple[Term, ...]]


def grids_from_cells(
    conditions: Sequence[Mapping[str, Any]], cells: Mapping[str, Cell], seed: int, z: float
) -> tuple[Grid, ...]:
    """The grids of a run; conditions are those of its identity.

    Args:
        seed: of the resampling.
        z: half the width of an interval in standard deviations.
    """
    noises = dict.fromkeys(each["noise"] for each in conditions)
    groups = {noise: {each["setting"]: each for each in conditions if each["noise"] == noise} for noise in noises}
    return tuple(
        _grid(noise, group, levels, cells, (seed, z))
        for noise, group in groups.items()
        if (levels := factor_levels(list(group), _stages(group)))
    )


def factor_levels(settings: Sequence[str], names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Factor -> its choices; empty where the settings are not every combination of several choices each.

    >>> factor_levels(["a+x", "a+y", "b+x", "b+y"], ["decode", "resize"])
    {'decode': ('a', 'b'), 'resize': ('x', 'y')}
    >>> factor_levels(["a+x", "b+y"], ["decode", "resize"])
    {}
    """
    parts = [setting.split(JOIN) for setting in settings]
    if any(len(each) != len(names) or len(each) < 2 for each in parts):
        return {}
    choices = [tuple(dict.fromkeys(column)) for column in zip(*parts, strict=True)]
    complete = {JOIN.join(each) for each in product(*choices)} == set(settings)
    return dict(zip(names, choices, strict=True)) if complete else {}


def _stages(group: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The stages at which the settings of a noise differ from each other, in order."""
    pipelines = [each["pipeline"] for each in group.values()]
    first = pipelines[0]
    if any(len(each) != len(first) for each in pipelines):
        return []
    return [step["stage"] for index, step in enumerate(first) if any(each[index] != step for each in pipelines)]


def _grid(
    noise: str,
    group: Mapping[str, Mapping[str, Any]],
    levels: Mapping[str, tuple[str, ...]],
    cells: Mapping[str, Cell],
    how: tuple[int, float],
) -> Grid:
    seed, z = how
    order = [JOIN.join(each) for each in product(*levels.values())]
    contenders = next(iter(group.values()))["cells"]
    asked = {name: {setting: cells[group[setting]["cells"][name]] for setting in order} for name in contenders}
    columns = {name: column for name, column in asked.items() if len(column[order[0]].correct)}
    terms = {}
    for engine in dict.fromkeys(name.rpartition(":")[0] for name in columns):
        versions = [f"{engine}:{version}" for version in (FP32, INTEGER)]
        if all(name in columns for name in versions):
            used = [cell for name in versions for cell in columns[name].values()]
            answers = np.stack([cell.correct for cell in used], axis=1)
            if len(answers) < 2:
                continue
            shape = (2, *map(len, levels.values()))
            factors = (PRECISION, *levels)
            terms[engine] = terms_from_answers(answers, shape, factors, any_failed(used), seed)
    spreads = {name: _spread(each, z) for name, each in columns.items()}
    return Grid(noise, dict(levels), spreads, terms)


def _spread(column: Mapping[str, Cell], z: float) -> Spread:
    accuracies = {setting: float(cell.correct.mean()) for setting, cell in column.items()}
    worst = min(accuracies, key=lambda setting: accuracies[setting])
    mean = np.mean([cell.correct for cell in column.values()], axis=0)
    return Spread(
        mean=proportion(mean, any_failed(list(column.values())), z),
        deviation=float(np.std(list(accuracies.values()))),
        worst=worst,
        lowest=proportion(column[worst].correct, column[worst].failed, z),
    )


def terms_from_answers(
    answers: Values, shape: tuple[int, ...], factors: Sequence[str], failed: int, seed: int
) -> tuple[Term, ...]:
    """The size of every term.

    Args:
        answers: float64 [pictures, cells], cells in the order of ``shape``.
        shape: how many choices each factor has.
        factors: their names.
        failed: how many of the pictures failed somewhere.
        seed: of the resampling.
    """
    n = len(answers)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(n, np.full(n, 1 / n), RESAMPLES).astype(np.float64)
    terms = []
    for size in range(1, len(factors) + 1):
        for chosen in combinations(range(len(factors)), size):
            projected = answers @ projection(shape, chosen)
            observed, chance = _squares(projected, np.ones((1, n)))
            each, noise = _squares(projected, counts)
            sizes = np.sqrt(np.maximum(0, each - 2 * noise))
            low, high = np.quantile(sizes, [0.025, 0.975])
            value = float(np.sqrt(max(0.0, observed[0] - chance[0])))
            estimate = Estimate(value, min(value, float(low)), max(value, float(high)), n, failed, "difference")
            names = tuple(factors[index] for index in chosen)
            terms.append(Term(names, estimate, float(np.sqrt(observed[0])), float(np.sqrt(chance[0]))))
    return tuple(terms)


def projection(shape: tuple[int, ...], chosen: Sequence[int]) -> npt.NDArray[np.float64]:
    """[cells, cells]: what the chosen factors together explain beyond what fewer of them do."""
    matrix = np.ones((1, 1))
    for index, size in enumerate(shape):
        mean = np.full((size, size), 1 / size)
        matrix = np.kron(matrix, np.eye(size) - mean if index in chosen else mean)
    return matrix


def _squares(projected: Values, counts: Values) -> tuple[Values, Values]:
    """Mean squares over the cells of the mean effect and of its standard error, for each row of counts."""
    n = counts.sum(axis=1)
    means = counts @ projected / n[:, None]
    lengths = np.maximum(0, (counts @ (projected**2).sum(axis=1)) / n - (means**2).sum(axis=1))
    cells = projected.shape[1]
    return (means**2).sum(axis=1) / cells, lengths / (n - 1) / cells
