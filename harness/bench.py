"""Bench: latency and throughput as deployed, from the encoded picture to the answer.

The scenarios are those of MLPerf Inference (Reddi et al., 2020, table III): a single stream asks one picture at a time
and is judged by its 90th percentile, a multi-stream asks several at once and is judged by its 99th, offline asks all it
can and is judged by its throughput. Runs are shorter than a submission's ten minutes; each number says on how many
queries it stands. A corruption is what the camera saw, not what the device computes, so its time does not count.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from itertools import cycle, islice
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from engines.artifact import Artifact, TensorSpec
from engines.base import Array, Engine, call
from harness.batches import Bundle, Preparation, Preparer
from harness.errors import HarnessError
from harness.estimate import Z
from harness.memory import keep_freed_memory
from harness.meter import usable_cores
from harness.plan import Plan
from harness.prepare import Contender
from harness.progress import Progress
from harness.samples import Sample

NOT_DEPLOYED = "sensor"  # the stage whose time does not count
WARM_UP = 3
PREPARATION = "preparation alone"


@dataclass(frozen=True)
class Load:
    """How hard and how long.

    Args:
        seconds: for each scenario and version.
        streams: pictures in one query of the multi-stream scenario.
        callers: threads of the offline scenario.
    """

    seconds: float = 10.0
    streams: int = 8
    callers: int = 0

    def __post_init__(self) -> None:
        if self.seconds <= 0 or self.streams < 1 or self.callers < 0:
            raise HarnessError(
                f"a load needs more than 0 seconds, 1 stream or more and 0 callers (one per core) or more; got {self}"
            )

    @property
    def threads(self) -> int:
        """Callers of the offline scenario."""
        return self.callers or usable_cores()


@dataclass(frozen=True)
class Measurement:
    """One scenario with one version under one condition.

    Args:
        scenario: row of `SCENARIOS`.
        condition: name of the condition.
        contender: ``ENGINE:VERSION``, or `PREPARATION`: everything up to the engine, and no engine.
        metric: what ``value`` is, with its unit.
        value: the number that judges the scenario.
        low: lower end of its 95 % interval; ``None`` where there are too few queries for one.
        high: upper end.
        n: queries.
        median_ms: of a query's latency.
        engine_ms: of these, inside the engine, on average.
    """

    scenario: str
    condition: str
    contender: str
    metric: str
    value: float
    low: float | None
    high: float | None
    n: int
    median_ms: float
    engine_ms: float

    def describe(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


class NullEngine:
    """Answers zeros at once: what is left is the cost of everything else."""

    reentrant = True

    def __init__(self, artifact: Artifact) -> None:
        self.inputs: tuple[TensorSpec, ...] = (artifact.input,)
        self.outputs: tuple[TensorSpec, ...] = (artifact.output,)
        self._classes = artifact.class_count

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Zeros, float32 [n, classes]."""
        (inputs,) = feeds.values()
        return {self.outputs[0].name: np.zeros((len(inputs), self._classes), np.float32)}

    def facts(self) -> dict[str, Any]:
        """What runs: nothing."""
        return {"provider": "none"}

    def close(self) -> None:
        """There is nothing to give back."""


@dataclass(frozen=True)
class _Query:
    """What one query took, in seconds, without what is not deployed."""

    total: float
    engine: float


class _Client:
    """Asks one version about pictures, as a deployed program would."""

    def __init__(self, engine: Engine, input_name: str, preparation: Preparation, fixed: bool) -> None:
        self._engine, self._input, self._fixed = engine, input_name, fixed
        self._preparer, self._place = Preparer(preparation), preparation.place()

    def ask(self, samples: Sequence[Sample]) -> _Query:
        """From encoded pictures to answers, in one call of the engine."""
        self._preparer.spent()
        started = time.perf_counter()
        filled = 0
        for batch in self._preparer.batches(Bundle(0, tuple(samples)), lambda: self._place):
            filled = max(filled, len(batch.inputs))
        inputs = self._place if self._fixed else self._place[:filled]
        asked = time.perf_counter()
        if filled:
            call(self._engine, {self._input: inputs})
        ended = time.perf_counter()
        return _Query(ended - started - self._preparer.seconds.get(NOT_DEPLOYED, 0.0), ended - asked)


def bench(made: Plan, contenders: Sequence[Contender], load: Load, progress: Progress) -> list[Measurement]:
    """Every scenario under every condition with every version, and with an engine that does nothing.

    Raises:
        EngineError: a version cannot be opened, or takes no batch of the load's size; nothing was measured.
    """
    cv2.setNumThreads(1)
    keep_freed_memory()
    measured = []
    total = len(SCENARIOS) * len(made.distinct) * (len(contenders) + 1)
    rows = made.artifact.fixed_batch or load.streams
    with ExitStack() as opened, progress.task("bench", total=total) as advance:
        # All of them first: what one refuses is said before another was measured.
        engines = {each.name: opened.enter_context(closing(each.open(rows))) for each in contenders}
        engines[PREPARATION] = NullEngine(made.artifact)
        for who, engine in engines.items():
            for index, condition in enumerate(made.distinct):
                for name, scenario in SCENARIOS.items():
                    result = scenario(_Bench(made, engine, index, load))
                    measured.append(result.named(name, condition.name, who))
                    advance()
    return measured


@dataclass(frozen=True)
class _Result:
    metric: str
    value: float
    low: float | None
    high: float | None
    queries: Sequence[_Query]

    def named(self, scenario: str, condition: str, contender: str) -> Measurement:
        times = [1e3 * query.total for query in self.queries]
        engine = 1e3 * sum(query.engine for query in self.queries) / len(self.queries)
        median = float(np.median(times))
        rest = (self.metric, self.value, self.low, self.high, len(times), median, engine)
        return Measurement(scenario, condition, contender, *rest)


class _Bench:
    """One version under one condition."""

    def __init__(self, made: Plan, engine: Engine, condition: int, load: Load) -> None:
        self._made, self._engine, self._condition, self.load = made, engine, condition, load

    def client(self, pictures: int) -> _Client:
        """Someone who asks about so many pictures at once."""
        whole = self._made.preparation(pictures)
        folder, pipeline = next(
            (folder, each[self._condition]) for folder, each in whole.pipelines.items() if self._condition in each
        )
        one = replace(whole, pipelines={folder: {self._condition: pipeline}})
        return _Client(self._engine, self._made.artifact.input.name, one, self._made.artifact.fixed_batch is not None)

    def queries(self, pictures: int) -> list[_Query]:
        """One query after another for the time of the load."""
        client, samples = self.client(pictures), cycle(self._made.scored.samples)
        for _ in range(WARM_UP):
            client.ask(list(islice(samples, pictures)))
        done: list[_Query] = []
        ends = time.perf_counter() + self.load.seconds
        while time.perf_counter() < ends or not done:
            done.append(client.ask(list(islice(samples, pictures))))
        return done


def _stream(pictures: Callable[[Load], int], quantile: float) -> Callable[[_Bench], _Result]:
    def judge(bench: _Bench) -> _Result:
        queries = bench.queries(pictures(bench.load))
        value, low, high = percentile(np.array([1e3 * query.total for query in queries]), quantile)
        return _Result(f"p{100 * quantile:.0f} latency ms", value, low, high, queries)

    return judge


def _offline(bench: _Bench) -> _Result:
    """Throughput of as many callers as the load says, each for itself."""
    pictures = max(1, bench.load.streams)
    done: list[list[_Query]] = []
    threads = [threading.Thread(target=lambda: done.append(bench.queries(pictures))) for _ in range(bench.load.threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rates = np.array([pictures / query.total for each in done for query in each])
    half = Z * float(rates.std()) / math.sqrt(len(rates)) * len(threads)
    value = float(sum(pictures * len(each) / sum(query.total for query in each) for each in done))
    return _Result("pictures per second", value, value - half, value + half, [query for each in done for query in each])


# scenario -> how it is judged
SCENARIOS: Mapping[str, Callable[[_Bench], _Result]] = {
    "single-stream": _stream(lambda load: 1, 0.90),
    "multi-stream": _stream(lambda load: load.streams, 0.99),
    "offline": _offline,
}


def percentile(values: npt.NDArray[np.float64], quantile: float) -> tuple[float, float | None, float | None]:
    """A percentile and its distribution-free 95 % interval, which are order statistics (Hahn and Meeker, 1991).

    >>> percentile(np.arange(1000.0), 0.9)
    (900.0, 880.0, 919.0)
    """
    ordered = np.sort(values)
    n = len(ordered)
    half = Z * math.sqrt(n * quantile * (1 - quantile))
    low, high = math.floor(n * quantile - half) - 1, math.ceil(n * quantile + half) - 1
    value = float(ordered[min(n - 1, math.floor(n * quantile))])
    return value, float(ordered[low]) if low >= 0 else None, float(ordered[high]) if high < n else None
