"""Feed: where the threads that call engines get their batches from, and what holds the line back.

`InlineFeed` has each caller prepare its own pictures; `harness.workers.WorkerFeed` has processes prepare them. Both
give the same batches.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from harness.batches import Batch, Bundle, Preparation, Preparer
from harness.meter import Meter


@dataclass(frozen=True)
class Delivery:
    """A batch for one caller.

    Args:
        bundle: what it is a part of.
        batch: rows and inputs; the inputs are valid until ``release`` is called.
        release: gives the memory back.
    """

    bundle: Bundle
    batch: Batch
    release: Callable[[], None]


class Feed(Protocol):
    """Batches for any number of callers."""

    def stream(self) -> Iterator[Delivery]:
        """Batches for one caller, until there are no more."""

    def collected(self) -> None:
        """The next bundle in order has been measured and taken away."""

    def close(self) -> None:
        """Stop soon: streams end, processes end."""


class Todo:
    """Bundles in order, handed out only so far ahead of what was collected, which bounds what is in memory.

    Args:
        bundles: what is to be done.
        ahead: how many bundles may be out at once.

    Attributes:
        closed: whether nobody wants more, not even what is left of a bundle.
    """

    def __init__(self, bundles: Sequence[Bundle], ahead: int) -> None:
        self._bundles = bundles
        self._ahead = ahead
        self._taken = self._collected = 0
        self.closed = False
        self._changed = threading.Condition()

    @property
    def exhausted(self) -> bool:
        """Whether every bundle has been handed out."""
        return self._taken == len(self._bundles)

    def take_now(self) -> Bundle | None:
        """The next bundle, or nothing where none may be taken yet."""
        with self._changed:
            if self.exhausted or self._taken >= self._collected + self._ahead:
                return None
            self._taken += 1
            return self._bundles[self._taken - 1]

    def take(self) -> Bundle | None:
        """The next bundle, as soon as it may be taken; nothing where none is left."""
        with self._changed:
            self._changed.wait_for(lambda: self.exhausted or self._taken < self._collected + self._ahead)
            return self.take_now()

    def collected(self) -> None:
        """One more may be taken."""
        with self._changed:
            self._collected += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Hand out nothing more."""
        with self._changed:
            self.closed = True
            self._bundles = self._bundles[: self._taken]
            self._changed.notify_all()


class InlineFeed:
    """Every caller prepares the pictures that it measures."""

    def __init__(self, preparation: Preparation, bundles: Sequence[Bundle], ahead: int, meter: Meter) -> None:
        self._preparation = preparation
        self._todo = Todo(bundles, ahead)
        self._meter = meter

    def stream(self) -> Iterator[Delivery]:
        """As `Feed.stream`."""
        preparer = Preparer(self._preparation)
        while (bundle := self._todo.take()) is not None:
            for batch in preparer.batches(bundle, self._preparation.place):
                if self._todo.closed:
                    return
                self._meter.prepared(preparer.spent())
                yield Delivery(bundle, batch, _nothing)

    def collected(self) -> None:
        """As `Feed.collected`."""
        self._todo.collected()

    def close(self) -> None:
        """As `Feed.close`."""
        self._todo.close()


def _nothing() -> None:
    """Memory that nobody else waits for."""
