"""Line: the versions of the model on one engine, open, and what each says of a batch.

Answers are only ever compared within one engine, so a line needs no other: lines may go through the pictures together,
or each by itself.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from engines.base import Array, Engine, EngineError, PageLocking, call
from harness.batches import Batch, Bundle
from harness.meter import Meter
from harness.plan import FP32, SIMULATED, Plan
from harness.prepare import Contender
from harness.record import Outputs, Record, logit_distances, scores


class Repeat(NamedTuple):
    """A record that another one is, but for its cell: the engine would be asked about the very same input.

    Args:
        cell: as in `Record`.
        condition: of the other record; picture and contender are the same.
    """

    cell: str
    condition: int


# A record and where it belongs in its bundle: position of the picture, condition, contender.
Placed = tuple[tuple[int, int, int], Record | Repeat]

# The fields of a record from ``prediction`` on.
Fields = dict[str, Any]


@dataclass(frozen=True)
class Answers:
    """What a contender says of a batch.

    Args:
        outputs: float32 [n, classes]; NaN where it says nothing.
        failed: row -> why it says nothing.
    """

    outputs: Outputs
    failed: Mapping[int, str] = field(default_factory=dict)


class Line:
    """Turns batches into records. Several threads may measure at once.

    Args:
        made: the plan whose conditions the batches' rows name.
        contenders: what answers; all on one engine.
        batch: rows in one call.
        meter: is told when an engine is at work.
    """

    def __init__(self, made: Plan, contenders: Sequence[Contender], batch: int, meter: Meter) -> None:
        self.engine = contenders[0].engine
        self._contenders = contenders
        self.meter = meter
        self._batch = made.artifact.fixed_batch or batch
        self._fixed = made.artifact.fixed_batch is not None
        self._keys = [
            [contender.cell_key(condition, made.recipe.seed) for contender in contenders] for condition in made.distinct
        ]
        columns = {contender.version: column for column, contender in enumerate(contenders)}
        self._references = [_compared(column, columns) for column in range(len(contenders))]
        self._engines: list[Engine] = []
        self._locks = [threading.Lock() for _ in contenders]
        for contender in contenders:
            self._engines.append(contender.open(self._batch))

    def close(self) -> None:
        """Close every engine."""
        for engine in self._engines:
            engine.close()

    def page_lock(self, memory: npt.NDArray[np.uint8]) -> None:
        """Show memory in which batches will be to the engines that copy them to a device from where they are."""
        for engine in self._engines:
            if isinstance(engine, PageLocking):
                engine.page_lock(memory)

    def measure(self, bundle: Bundle, batch: Batch) -> list[Placed]:
        """The records of a batch, each with its place: position of the picture, condition, contender."""
        labels = [bundle.samples[row.position].label for row in batch.rows if row.fed]
        said = zip(*self._said(batch.inputs, labels), strict=True)
        placed: list[Placed] = []
        for row in batch.rows:
            keys = self._keys[row.condition]
            records: Sequence[Record | Repeat]
            if row.same_as is not None:
                records = [Repeat(key, row.same_as) for key in keys]
            else:
                sample = bundle.samples[row.position]
                answers = next(said) if row.fed else [{"error": row.error}] * len(keys)
                records = [
                    Record(key, sample.id, sample.label, row.source, **fields)
                    for key, fields in zip(keys, answers, strict=True)
                ]
            placed += [((row.position, row.condition, column), record) for column, record in enumerate(records)]
        return placed

    def _said(self, inputs: Array, labels: Sequence[int]) -> list[list[Fields]]:
        """For every contender the fields of a record for every input."""
        if not labels:
            return [[] for _ in self._contenders]
        answers = [self._infer(column, inputs) for column in range(len(self._contenders))]
        return [self._fields(column, answers, labels) for column in range(len(answers))]

    def _fields(self, column: int, answers: Sequence[Answers], labels: Sequence[int]) -> list[Fields]:
        """The fields of one contender's answers, with their distances from those of other versions."""
        mine, output_kind = answers[column], self._contenders[column].artifact.output_kind
        fields = scores(mine.outputs, labels, output_kind)
        for row, error in mine.failed.items():
            fields[row] = {"error": error}
        for name, reference in self._references[column].items():
            distances = logit_distances(mine.outputs, answers[reference].outputs, output_kind)
            for each, distance in zip(fields, distances, strict=True):
                if "error" not in each:
                    each[name] = distance
        return fields

    def _infer(self, column: int, inputs: Array) -> Answers:
        """What one contender says of a batch; a batch that fails is tried picture by picture."""
        try:
            return Answers(self._call(column, inputs))
        except EngineError as error:
            if len(inputs) == 1:
                nothing = np.full((1, self._contenders[column].artifact.class_count), np.nan, np.float32)
                return Answers(nothing, {0: f"engine: {error}"})
        alone = [self._infer(column, one[None]) for one in inputs]
        failed = {row: each.failed[0] for row, each in enumerate(alone) if each.failed}
        return Answers(np.concatenate([each.outputs for each in alone]), failed)

    def _call(self, column: int, inputs: Array) -> Outputs:
        contender = self._contenders[column]
        count = len(inputs)
        if self._fixed and count < self._batch:
            # The file insists on its batch; the surplus repeats the last picture and is thrown away.
            inputs = np.concatenate([inputs, np.repeat(inputs[-1:], self._batch - count, axis=0)])
        with self._alone(column), self.meter.engine(contender.name):
            timed = call(self._engines[column], {contender.artifact.input.name: inputs})
        outputs: Outputs = timed.outputs[contender.artifact.output.name]
        return outputs[:count]

    @contextmanager
    def _alone(self, column: int) -> Iterator[None]:
        if self._engines[column].reentrant:
            yield
        else:
            with self._locks[column]:
                yield


def lines_from_contenders(made: Plan, contenders: Sequence[Contender], batch: int, meter: Meter) -> list[Line]:
    """One line per engine, open, in the order of the contenders."""
    engines = dict.fromkeys(contender.engine for contender in contenders)
    return [Line(made, [each for each in contenders if each.engine == engine], batch, meter) for engine in engines]


def _compared(column: int, columns: Mapping[str, int]) -> dict[str, int]:
    """Field of a record -> the column whose answer it compares with."""
    others = {"from_fp32": columns.get(FP32), "from_simulated": columns.get(SIMULATED)}
    return {name: other for name, other in others.items() if other is not None and other < column}
