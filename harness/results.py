"""Results: what several callers measured, put into the order of the pictures again, for each line."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain

from harness.batches import Batch, Bundle
from harness.line import Placed
from harness.record import Record


@dataclass
class _Open:
    """A bundle of which some batches have been measured, in any order."""

    attempt: int
    batches: list[Sequence[Sequence[Placed]]] = field(default_factory=list)
    expected: int | None = None

    @property
    def complete(self) -> bool:
        return len(self.batches) == self.expected

    def add(self, batch: Batch, placed: Sequence[Sequence[Placed]]) -> None:
        self.batches.append(placed)
        if batch.last:
            self.expected = batch.number + 1


class Results:
    """Puts what callers measured into order again."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open: dict[int, _Open] = {}
        self._error: BaseException | None = None

    def add(self, bundle: Bundle, batch: Batch, placed: Sequence[Sequence[Placed]]) -> None:
        """Keep the records of one batch, line by line. What an earlier attempt at a bundle left is dropped."""
        with self._changed:
            there = self._open.get(bundle.index)
            if there is None or there.attempt < bundle.attempt:
                there = self._open[bundle.index] = _Open(bundle.attempt)
            if there.attempt == bundle.attempt:
                there.add(batch, placed)
                if there.complete:
                    self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Raise this where results are waited for."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def take(self, index: int) -> list[list[Record]]:
        """For each line all records of one bundle, in the order of pictures, conditions and contenders."""
        with self._changed:
            while not self._error and not (index in self._open and self._open[index].complete):
                self._changed.wait()
            if self._error:
                raise self._error
            batches = self._open.pop(index).batches
        return [_in_order(chain.from_iterable(line)) for line in zip(*batches, strict=True)]


def _in_order(measured: Iterable[Placed]) -> list[Record]:
    """The records of a line in order; the other one may have come in another batch."""
    placed = dict(measured)

    def settled(place: tuple[int, int, int]) -> Record:
        record = placed[place]
        if isinstance(record, Record):
            return record
        return settled((place[0], record.condition, place[2]))._replace(cell=record.cell)

    return [settled(place) for place in sorted(placed)]
