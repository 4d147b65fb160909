"""Doubles of engines: each answers from the picture's own numbers, and misbehaves in one way."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from engines.artifact import Artifact
from engines.base import Array, EngineError, EngineOptions

calls: list[int] = []


class DoubleEngine:
    """Answers with the mean of 16 strips of the picture as its logits, 16 classes."""

    reentrant = True

    def __init__(self, artifact: Artifact, options: EngineOptions) -> None:
        del options
        self.inputs, self.outputs = (artifact.input,), (artifact.output,)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        (batch,) = feeds.values()
        calls.append(len(batch))
        return {self.outputs[0].name: self.answer(batch)}

    def answer(self, batch: Array) -> Array:
        strips = batch.reshape(len(batch), 3, 16, -1)
        return np.ascontiguousarray(strips.mean(axis=(1, 3), dtype=np.float64).astype(np.float32))

    def facts(self) -> dict[str, Any]:
        return {"runtime": "double"}

    def close(self) -> None:
        pass


class Narrow(DoubleEngine):
    """Takes two pictures in one piece, and cuts what is larger."""

    most_rows = 2


class Fragile(DoubleEngine):
    """Refuses any batch with a bright picture in it."""

    def answer(self, batch: Array) -> Array:
        if any(one.mean() > 1.2 for one in batch):
            raise EngineError("too bright")
        return super().answer(batch)


class NotFinite(DoubleEngine):
    """Answers the first of every batch with NaN."""

    def answer(self, batch: Array) -> Array:
        answers = super().answer(batch)
        answers[0] = np.nan
        return answers


class Alone(DoubleEngine):
    """Says that it is not reentrant, and fails when it is called twice at once."""

    reentrant = False
    busy = threading.Lock()

    def answer(self, batch: Array) -> Array:
        if not self.busy.acquire(blocking=False):
            raise EngineError("called twice at once")
        try:
            return super().answer(batch)
        finally:
            self.busy.release()


class Moody(DoubleEngine):
    """Never gives the same answer twice."""

    def answer(self, batch: Array) -> Array:
        return super().answer(batch) + np.float32(len(calls))


class Sociable(DoubleEngine):
    """Lets the size of the batch into its answers."""

    def answer(self, batch: Array) -> Array:
        return super().answer(batch) * np.float32(len(batch))


class Probabilities(DoubleEngine):
    """Answers with probabilities, whatever the artifact declares."""

    def answer(self, batch: Array) -> Array:
        exponentials = np.exp(super().answer(batch))
        return (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)


class Slow(DoubleEngine):
    """Takes a fifth of a second for every call."""

    def answer(self, batch: Array) -> Array:
        time.sleep(0.2)
        return super().answer(batch)
