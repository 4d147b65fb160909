"""Device timing: what a GPU engine does with a batch, told apart by events on the device, as users of trtexec know it.

The input is random and lies in page-locked memory, as the memory of workers does, so nothing is measured but engine and
transfers. *With transfers* is a whole call, from the host and back to it; *without* is the network alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from engines.artifact import Artifact
from engines.base import Engine, PageLocking, call
from engines.cuda.ring import SLOTS, Stages
from harness.bench import WARM_UP, Load, Measurement, percentile
from harness.inspection import random_input
from harness.prepare import Contender
from harness.progress import Progress

SCENARIO, CONDITION = "device", "random input"
QUANTILES = (0.50, 0.90, 0.99)


@runtime_checkable
class DeviceTimed(Protocol):
    """What an engine offers that knows what its batches took on the device."""

    def take_stages(self) -> list[Stages]:
        """What every batch took since the last call."""


@dataclass(frozen=True)
class Observed:
    """What was seen of one engine.

    Args:
        calls_ms: wall time of every call.
        stages: of every batch on the device.
        wall_s: from the first call to the last answer.
        pictures: in one call.
        nbytes: of one call's input.
    """

    calls_ms: Sequence[float]
    stages: Sequence[Stages]
    wall_s: float
    pictures: int
    nbytes: int

    def numbers(self) -> dict[str, tuple[float, float | None, float | None]]:
        """Metric -> value and the ends of its 95 % interval, where it has one.

        Overlap is 1 - wall / sum of stages: 0 where nothing overlaps, 2/3 where three equal stages do all the time.
        Starvation is the share of the time in which the engine had nothing to compute.
        """
        compute = [each.compute_ms for each in self.stages]
        found = {}
        for what, times in (("with transfers", self.calls_ms), ("without transfers", compute)):
            for quantile in QUANTILES:
                found[f"p{100 * quantile:.0f} latency ms {what}"] = percentile(np.array(times), quantile)
        wall_ms = 1e3 * self.wall_s
        copied_in_s = sum(each.copy_in_ms for each in self.stages) / 1e3
        alone = {
            "pictures per second": self.pictures * len(self.calls_ms) / self.wall_s,
            "GB/s copied in": self.nbytes * len(self.calls_ms) / copied_in_s / 1e9,
            "overlap": 1 - wall_ms / sum(each.total_ms for each in self.stages),
            "starvation": 1 - sum(compute) / wall_ms,
        }
        return {**found, **{metric: (value, None, None) for metric, value in alone.items()}}


def device_bench(contenders: Sequence[Contender], load: Load, progress: Progress) -> list[Measurement]:
    """The numbers of every contender whose engine knows them; none for engines on the CPU."""
    measured: list[Measurement] = []
    with progress.task("device", total=len(contenders)) as advance:
        for contender in contenders:
            with closing(contender.open(_pictures(contender.artifact, load))) as engine:
                if isinstance(engine, DeviceTimed):
                    measured += _rows(contender.name, observe(engine, contender.artifact, load))
            advance()
    return measured


def observe(engine: Engine, artifact: Artifact, load: Load) -> Observed:
    """Call an engine from as many threads as it has slots, for the time of the load.

    Raises:
        EngineError: it fails.
    """
    assert isinstance(engine, DeviceTimed)
    pictures = _pictures(artifact, load)
    memory = np.zeros((SLOTS, _nbytes(artifact, pictures)), np.uint8)
    if isinstance(engine, PageLocking):
        engine.page_lock(memory)
    batches = [_batch(artifact, pictures, row, seed) for seed, row in enumerate(memory)]
    name = artifact.input.name
    for _ in range(WARM_UP):
        for batch in batches:
            call(engine, {name: batch})
    engine.take_stages()
    calls_ms: list[float] = []
    errors: list[BaseException] = []
    stop = threading.Event()
    started = time.perf_counter()

    def ask(batch: npt.NDArray[np.generic]) -> None:
        try:
            while not stop.is_set() and time.perf_counter() < started + load.seconds:
                calls_ms.append(call(engine, {name: batch}).wall_ns / 1e6)
        except BaseException as error:  # noqa: BLE001 - it is raised again where the threads are waited for
            errors.append(error)

    threads = [threading.Thread(target=ask, args=(batch,)) for batch in batches]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wall_s = time.perf_counter() - started
    finally:
        # Ctrl-C comes out of the wait. Whoever closes the engine then frees memory that these threads write.
        stop.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join()
    if errors:
        raise errors[0]
    return Observed(calls_ms, engine.take_stages(), wall_s, pictures, batches[0].nbytes)


def _rows(who: str, seen: Observed) -> list[Measurement]:
    compute = sum(each.compute_ms for each in seen.stages) / len(seen.stages)
    median = float(np.median(seen.calls_ms))
    return [
        Measurement(SCENARIO, CONDITION, who, metric, value, low, high, len(seen.calls_ms), median, compute)
        for metric, (value, low, high) in seen.numbers().items()
    ]


def _pictures(artifact: Artifact, load: Load) -> int:
    return artifact.fixed_batch or load.streams


def _nbytes(artifact: Artifact, pictures: int) -> int:
    return int(np.prod(_shape(artifact, pictures))) * np.dtype(artifact.input.dtype).itemsize


def _shape(artifact: Artifact, pictures: int) -> tuple[int, ...]:
    return (pictures, *(length or 0 for length in artifact.input.shape[1:]))


def _batch(artifact: Artifact, pictures: int, memory: npt.NDArray[np.uint8], seed: int) -> npt.NDArray[np.generic]:
    """Random pictures in given memory."""
    batch = memory.view(artifact.input.dtype).reshape(_shape(artifact, pictures))
    batch[:] = random_input(artifact, batch.shape, seed)
    return batch
