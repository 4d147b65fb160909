"""Line: the contenders, open, and what each says of a batch."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.base import Engine, EngineError, call
from harness.batches import Batch, Bundle
from harness.meter import Meter
from harness.plan import FP32, SIMULATED, Plan
from harness.prepare import Contender
from harness.record import Record, logit_distance, score
from harness.registry import engine_opener

# What an engine says of one picture: float32 [classes], or why it says nothing.
Answer = npt.NDArray[np.float32] | EngineError

# A record and where it belongs in its bundle: position of the picture, condition, contender.
Placed = tuple[tuple[int, int, int], Record]


class Line:
    """Turns batches into records. Several threads may measure at once.

    Args:
        made: the plan whose conditions the batches' rows name.
        contenders: what answers.
        batch: rows in one call.
        meter: is told when an engine is at work.
    """

    def __init__(self, made: Plan, contenders: Sequence[Contender], batch: int, meter: Meter) -> None:
        self.contenders = contenders
        self.meter = meter
        self._batch = made.artifact.fixed_batch or batch
        self._fixed = made.artifact.fixed_batch is not None
        self._keys = [
            [contender.cell_key(condition, made.recipe.seed) for contender in contenders] for condition in made.distinct
        ]
        self._columns = {contender.name: column for column, contender in enumerate(contenders)}
        self._references = [self._compared(column) for column in range(len(contenders))]
        self._engines: list[Engine] = []
        self._locks = [threading.Lock() for _ in contenders]
        for contender in contenders:
            self._engines.append(engine_opener(contender.engine)(contender.artifact, contender.options))

    def close(self) -> None:
        """Close every engine."""
        for engine in self._engines:
            engine.close()

    def measure(self, bundle: Bundle, batch: Batch) -> list[Placed]:
        """The records of a batch, each with its place: position of the picture, condition, contender."""
        answers = [iter(self._infer(column, batch.inputs)) for column in range(len(self.contenders))]
        placed: list[Placed] = []
        for row in batch.rows:
            sample = bundle.samples[row.position]
            said = [None if row.error else next(each) for each in answers]
            for column in range(len(said)):
                values = {"error": row.error} if row.error else self._fields(column, said, sample.label)
                record = Record(self._keys[row.condition][column], sample.id, sample.label, row.source, **values)
                placed.append(((row.position, row.condition, column), record))
        return placed

    def _fields(self, column: int, said: Sequence[Answer | None], label: int) -> dict[str, Any]:
        """The fields of a record from an answer, and its distances from those of other versions."""
        answer, output_kind = said[column], self.contenders[column].artifact.output_kind
        if not isinstance(answer, np.ndarray):
            return {"error": f"engine: {answer}"}
        fields = score(answer, label, output_kind)
        if "error" in fields:
            return fields
        for field, reference in self._references[column].items():
            other = said[reference]
            if isinstance(other, np.ndarray):
                fields[field] = logit_distance(answer, other, output_kind)
        return fields

    def _compared(self, column: int) -> dict[str, int]:
        """Field of a record -> the column whose answer it compares with."""
        engine = self.contenders[column].engine
        fields = (("from_fp32", FP32), ("from_simulated", SIMULATED))
        others = {field: self._columns.get(f"{engine}:{version}") for field, version in fields}
        return {field: other for field, other in others.items() if other is not None and other < column}

    def _infer(self, column: int, inputs: npt.NDArray[Any]) -> list[Answer]:
        """What one contender says of a batch; a batch that fails is tried picture by picture."""
        if not len(inputs):
            return []
        try:
            return list(self._call(column, inputs))
        except EngineError as error:
            if len(inputs) == 1:
                return [error]
            return [answer for one in inputs for answer in self._infer(column, one[None])]

    def _call(self, column: int, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        contender = self.contenders[column]
        count = len(inputs)
        if self._fixed and count < self._batch:
            # The file insists on its batch; the surplus repeats the last picture and is thrown away.
            inputs = np.concatenate([inputs, np.repeat(inputs[-1:], self._batch - count, axis=0)])
        with self._alone(column), self.meter.engine(contender.name):
            timed = call(self._engines[column], {contender.artifact.input.name: inputs})
        outputs: npt.NDArray[np.float32] = timed.outputs[contender.artifact.output.name]
        return outputs[:count]

    @contextmanager
    def _alone(self, column: int) -> Iterator[None]:
        if self._engines[column].reentrant:
            yield
        else:
            with self._locks[column]:
                yield
