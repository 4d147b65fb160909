"""Run: every picture through every condition and every contender, into records.

The loop knows nothing of noise, quantisation or engines: it takes a sample, walks the tree, feeds what comes
out to the contenders and keeps the rows. Workers are threads, because everything that takes long (decoders,
OpenCV, NumPy, the engines) gives up Python's lock; each takes a picture from the file to its rows.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from engines.base import Engine, EngineError, call
from harness.errors import HarnessError
from harness.memory import keep_freed_memory
from harness.plan import FP32, SIMULATED, Plan
from harness.prepare import Contender
from harness.preprocess import Prepared, Tree
from harness.progress import Progress
from harness.record import Record, logit_distance, score
from harness.registry import engine_opener
from harness.samples import UNREADABLE, Sample
from harness.store import Store
from noise.decode import source_of


@dataclass(frozen=True)
class Speed:
    """How fast, not what: nothing here changes a record.

    Args:
        workers: pictures that are worked on at once; 0 means one per core.
        batch: pictures in one call of an engine, where the model allows it.
    """

    workers: int = 0
    batch: int = 4

    def __post_init__(self) -> None:
        if self.workers < 0 or self.batch < 1:
            raise HarnessError(
                f"workers must be 0 or more and batch 1 or more; got {self.workers} workers, batch {self.batch}"
            )

    @property
    def threads(self) -> int:
        """The number of workers."""
        return self.workers or os.cpu_count() or 1


# What an engine says of one picture: float32 [classes], or why it says nothing.
Answer = npt.NDArray[np.float32] | EngineError


@dataclass
class Measured:
    """All records of one sample, and where the time went."""

    records: list[Record]
    seconds: dict[str, float] = field(default_factory=dict)
    engine_seconds: dict[str, float] = field(default_factory=dict)


def run(made: Plan, contenders: Sequence[Contender], store: Store, speed: Speed, progress: Progress) -> None:
    """Measure what the store does not hold yet.

    Raises:
        HarnessError: the disk is full. Interrupting is safe too: complete parts stay.
    """
    slices = list(_slices(made.scored.samples))
    missing = [index for index in range(len(slices)) if not store.has_part(index)]
    if not missing:
        return
    pictures = sum(len(slices[index]) for index in missing)
    cv2.setNumThreads(1)  # workers are the parallelism; OpenCV's own threads would fight them for the cores
    keep_freed_memory()
    with ExitStack() as stack:
        line = Line(made, contenders, speed.batch)
        stack.enter_context(closing(line))
        pool = stack.enter_context(ThreadPoolExecutor(speed.threads))
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        total = len(made.scored.samples)
        advance = stack.enter_context(progress.task("measure", total=total, done=total - pictures))
        todo = [sample for index in missing for sample in slices[index]]
        results = _in_order(pool, line, todo, ahead=2 * speed.threads)
        for index in missing:
            started = time.perf_counter()
            part = []
            for _ in slices[index]:
                part.append(next(results))
                advance()
            records = [record for measured in part for record in measured.records]
            store.write_part(index, records, _timing(part, time.perf_counter() - started, speed))


class Line:
    """The contenders, open, and the tree that feeds them."""

    def __init__(self, made: Plan, contenders: Sequence[Contender], batch: int) -> None:
        self.trees = made.trees()
        self.seed = made.recipe.seed
        self.contenders = contenders
        self.batch = made.artifact.fixed_batch or batch
        self.fixed = made.artifact.fixed_batch is not None
        self.keys = [
            [contender.cell_key(condition, self.seed) for contender in contenders] for condition in made.distinct
        ]
        self.order = {key: place for place, key in enumerate(key for keys in self.keys for key in keys)}
        self.engines: list[Engine] = []
        self.locks = [threading.Lock() for _ in contenders]
        for contender in contenders:
            self.engines.append(engine_opener(contender.engine)(contender.artifact, contender.options))

    def close(self) -> None:
        """Close every engine."""
        for engine in self.engines:
            engine.close()

    def measure(self, sample: Sample) -> Measured:
        """Every record of one sample, in the order of conditions and contenders."""
        measured = Measured([])
        for folder, tree in self.trees.items():
            self._measure_copy(measured, sample, folder, tree)
        measured.records.sort(key=lambda record: self.order[record.cell])
        return measured

    def _measure_copy(self, measured: Measured, sample: Sample, folder: str, tree: Tree) -> None:
        try:
            data = sample.read(folder)
        except OSError as error:
            self._keep(measured, sample, UNREADABLE, list(tree.unreadable(error)))
            return
        source = source_of(data)
        waiting: list[Prepared] = []
        for prepared in tree.walk(data, sample.id, self.seed, measured.seconds):
            waiting.append(prepared)
            if sum(each.tensor is not None for each in waiting) == self.batch:
                self._keep(measured, sample, source, waiting)
                waiting = []
        self._keep(measured, sample, source, waiting)

    def _keep(self, measured: Measured, sample: Sample, source: str, batch: Sequence[Prepared]) -> None:
        """Feed a batch to every contender and keep the rows; a picture that failed earlier keeps its error."""
        inputs = [prepared.tensor for prepared in batch if prepared.tensor is not None]
        stacked = np.stack(inputs) if inputs else None
        answers: dict[str, list[Answer]] = {}
        for column, contender in enumerate(self.contenders):
            mine = answers[contender.name] = [] if stacked is None else self._infer(column, stacked, measured)
            others = {
                field: answers[f"{contender.engine}:{version}"]
                for field, version in (("from_fp32", FP32), ("from_simulated", SIMULATED))
                if version != contender.version and f"{contender.engine}:{version}" in answers
            }
            place = iter(range(len(mine)))
            for prepared in batch:
                if prepared.tensor is None:
                    values: dict[str, Any] = {"error": prepared.error}
                else:
                    index = next(place)
                    references = {field: other[index] for field, other in others.items()}
                    values = _fields(mine[index], references, sample.label, contender.artifact.output_kind)
                key = self.keys[prepared.condition][column]
                measured.records.append(Record(key, sample.id, sample.label, source, **values))

    def _infer(self, column: int, stacked: npt.NDArray[np.float32], measured: Measured) -> list[Answer]:
        """What one contender says of a batch; a batch that fails is tried picture by picture."""
        try:
            return list(self._call(column, stacked, measured))
        except EngineError as error:
            if len(stacked) == 1:
                return [error]
            return [answer for one in stacked for answer in self._infer(column, one[None], measured)]

    def _call(self, column: int, stacked: npt.NDArray[np.float32], measured: Measured) -> npt.NDArray[np.float32]:
        engine, contender = self.engines[column], self.contenders[column]
        count = len(stacked)
        if self.fixed and count < self.batch:
            # The file insists on its batch; the surplus repeats the last picture and is thrown away.
            stacked = np.concatenate([stacked, np.repeat(stacked[-1:], self.batch - count, axis=0)])
        feeds = {contender.artifact.input.name: stacked}
        if engine.reentrant:
            timed = call(engine, feeds)
        else:
            with self.locks[column]:
                timed = call(engine, feeds)
        spent = measured.engine_seconds
        spent[contender.name] = spent.get(contender.name, 0.0) + timed.wall_ns / 1e9
        outputs: npt.NDArray[np.float32] = timed.outputs[contender.artifact.output.name]
        return outputs[:count]


def _fields(answer: Answer, references: Mapping[str, Answer], label: int, output_kind: str) -> dict[str, Any]:
    """The fields of a record from an answer, and its distances from those of other versions."""
    if isinstance(answer, EngineError):
        return {"error": f"engine: {answer}"}
    distances = {
        field: logit_distance(answer, reference, output_kind)
        for field, reference in references.items()
        if not isinstance(reference, EngineError)
    }
    fields = score(answer, label, output_kind)
    return fields if "error" in fields else {**fields, **distances}


def pictures_per_part(total: int) -> int:
    """Small enough that little is lost with a killed run, large enough that 50,000 pictures make few files."""
    return max(4, min(64, -(-total // 256)))


def _slices(samples: Sequence[Sample]) -> Iterator[Sequence[Sample]]:
    size = pictures_per_part(len(samples))
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def _in_order(pool: ThreadPoolExecutor, line: Line, samples: Sequence[Sample], *, ahead: int) -> Iterator[Measured]:
    """Results in the order of the samples, with at most ``ahead`` samples in flight."""
    flying: deque[Future[Measured]] = deque()
    for sample in samples:
        flying.append(pool.submit(line.measure, sample))
        if len(flying) >= ahead:
            yield flying.popleft().result()
    while flying:
        yield flying.popleft().result()


def _timing(part: Sequence[Measured], wall_seconds: float, speed: Speed) -> dict[str, Any]:
    return {
        "pictures": len(part),
        "wall_seconds": wall_seconds,
        "workers": speed.threads,
        "batch": speed.batch,
        "stage_seconds": _sum(measured.seconds for measured in part),
        "engine_seconds": _sum(measured.engine_seconds for measured in part),
    }


def _sum(dictionaries: Iterator[Mapping[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for dictionary in dictionaries:
        for key, value in dictionary.items():
            total[key] = total.get(key, 0.0) + value
    return total
