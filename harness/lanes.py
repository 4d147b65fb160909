"""Lanes: engines that go through the pictures together, and how lanes share the time.

A noisy picture is made once and given to every engine of a lane. An engine that is far slower than the rest has a lane
of its own: its pictures are made again, which costs it next to nothing, and the others need not wait for it. Lanes take
turns, each with the same share of the time, so all have something to report from the first minute on.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from harness.batches import Bundle, Preparation, Preparer, bundles_from_slices, pictures_per_bundle
from harness.feed import Feed, InlineFeed
from harness.line import Line
from harness.memory import keep_freed_memory
from harness.progress import Advance
from harness.record import Record
from harness.results import Results
from harness.samples import SYNTHETIC
from harness.slices import Slice
from harness.speed import Choice, Speed, Staff
from harness.store import Store
from harness.workers import WorkerFeed, feed_from_workers

AHEAD = 4  # bundles per worker or caller that may be out at once
SLOW = 4.0  # times as long as preparing and all faster engines together, from which on an engine has its own lane
TURN_SECONDS = 20.0
TRIAL_SECONDS = 1.0
TRIAL_BUNDLES = 8  # per caller, at least


class Lane:
    """The slices that some engines have not measured yet, and one go after the other at them.

    Args:
        lines: the engines, all with one meter.
        preparation: what turns pictures into batches.
        store: where parts go.
        speed: what is fixed of how fast.
        slices: what is to be measured; those of which the store has all parts are left out.
    """

    def __init__(
        self, lines: Sequence[Line], preparation: Preparation, store: Store, speed: Speed, slices: Sequence[Slice]
    ) -> None:
        self._lines, self._preparation, self._store = lines, preparation, store
        self._meter = lines[0].meter
        self._choice = Choice(speed.candidates())
        self.left = [each for each in slices if self._lacking(each)]
        self.spent_seconds = 0.0

    @property
    def pictures_left(self) -> int:
        """How many pictures are still to be measured."""
        return sum(len(each.samples) for each in self.left)

    def turn(self, seconds: float, enough: Callable[[], bool], advance: Advance) -> bool:
        """Measure and store slices in order for about so long; true where that was enough.

        Args:
            enough: is asked after every slice whether what is stored is enough.
            advance: is called for every picture that is done.
        """
        started = time.perf_counter()
        staff = self._choice.staff(self.pictures_left)
        wanted = self._wanted(staff, seconds)
        few: list[Slice] = []
        while self.left and (not few or sum(len(each.samples) for each in few) < wanted):
            few.append(self.left.pop(0))
        over = self._measure(few, staff, enough, advance)
        self.spent_seconds += time.perf_counter() - started
        return over

    def _lacking(self, piece: Slice) -> list[int]:
        """The lines whose part of a slice is not stored."""
        return [n for n, line in enumerate(self._lines) if not self._store.has_part(piece.index, line.engine)]

    def _asked(self, slices: Sequence[Slice]) -> list[list[int]]:
        """For every bundle of the slices the lines that have not measured it."""
        size = self._pictures_per_bundle
        return [lacking for each in slices for lacking in [self._lacking(each)] * -(-len(each.samples) // size)]

    def _wanted(self, staff: Staff, seconds: float) -> float:
        """Pictures for a turn: as many as the time allows at the pace so far, or so many that a pace can be told."""
        pace = self._choice.pace
        affordable = seconds if math.isinf(seconds) else seconds * pace
        if not self._choice.on_trial(staff):
            return affordable
        least = TRIAL_BUNDLES * staff.callers * self._pictures_per_bundle
        return min(affordable, max(least, TRIAL_SECONDS * pace))

    @property
    def _pictures_per_bundle(self) -> int:
        conditions = sum(len(each) for each in self._preparation.pipelines.values())
        return pictures_per_bundle(self._preparation.batch, conditions)

    def _measure(self, slices: Sequence[Slice], staff: Staff, enough: Callable[[], bool], advance: Advance) -> bool:
        bundles = bundles_from_slices([each.samples for each in slices], self._pictures_per_bundle)
        asked = self._asked(slices)
        times = [(time.perf_counter(), 0)]
        with self._measuring(bundles, asked, staff) as take:
            waiting = iter(bundles)
            for each in slices:
                records: list[list[Record]] = [[] for _ in self._lines]
                done = 0
                while done < len(each.samples):
                    bundle = next(waiting)
                    for line, more in zip(records, take(bundle.index), strict=True):
                        line.extend(more)
                    done += len(bundle.samples)
                    times.append((time.perf_counter(), len(bundle.samples)))
                    advance(len(bundle.samples))
                self._keep(each, records, staff)
                if enough():
                    return True
        self._choice.tell(staff, _pace(times))
        return False

    def _keep(self, piece: Slice, records: Sequence[Sequence[Record]], staff: Staff) -> None:
        """Store the parts of a slice that are not there yet; the first of them tells the time."""
        timing: dict[str, Any] | None = self._timing(len(piece.samples), staff)
        for number in self._lacking(piece):
            self._store.write_part(piece.index, self._lines[number].engine, records[number], timing)
            timing = None

    @contextmanager
    def _measuring(
        self, bundles: Sequence[Bundle], asked: Sequence[Collection[int]], staff: Staff
    ) -> Iterator[Callable[[int], list[list[Record]]]]:
        """Feed and callers at work; gives what takes the records of a bundle, line by line, and lets the feed go on."""
        feed = self._feed(bundles, staff)
        results = Results()
        threads = [
            threading.Thread(target=self._call, args=(feed, asked, results), name=f"qharness caller {number}")
            for number in range(staff.callers)
        ]

        def take(index: int) -> list[list[Record]]:
            records = results.take(index)
            feed.collected()
            return records

        started: list[threading.Thread] = []
        try:
            if isinstance(feed, WorkerFeed):
                feed.lock_pages(self._page_lock)
            for thread in threads:
                thread.start()
                started.append(thread)
            yield take
        finally:
            feed.close()
            for thread in started:
                thread.join()

    def _feed(self, bundles: Sequence[Bundle], staff: Staff) -> Feed:
        ahead = AHEAD * max(staff.workers, staff.callers)
        if not staff.workers:
            return InlineFeed(self._preparation, bundles, ahead, self._meter)
        return feed_from_workers(self._preparation, bundles, (staff.workers, staff.callers), ahead, self._meter)

    def _page_lock(self, memory: npt.NDArray[np.uint8]) -> None:
        for line in self._lines:
            line.page_lock(memory)

    def _call(self, feed: Feed, asked: Sequence[Collection[int]], results: Results) -> None:
        """What every caller thread does."""
        try:
            for delivery in feed.stream():
                lines = asked[delivery.bundle.index]
                placed = [
                    line.measure(delivery.bundle, delivery.batch) if number in lines else []
                    for number, line in enumerate(self._lines)
                ]
                delivery.release()
                results.add(delivery.bundle, delivery.batch, placed)
        except BaseException as error:  # noqa: BLE001 - it is raised again where results are waited for
            results.fail(error)

    def _timing(self, pictures: int, staff: Staff) -> dict[str, Any]:
        return {
            "pictures": pictures,
            "engines": [line.engine for line in self._lines],
            **asdict(staff),
            "batch": self._preparation.batch,
            **self._meter.lap(),
            "trials": [trial.describe() for trial in self._choice.trials],
        }


def take_turns(lanes: Sequence[Lane], enough: Callable[[], bool], advance: Advance) -> None:
    """Measure what lanes have left; whoever had least of the time goes next."""
    while waiting := [lane for lane in lanes if lane.left]:
        lane = min(waiting, key=lambda each: each.spent_seconds)
        if lane.turn(TURN_SECONDS if len(waiting) > 1 else math.inf, enough, advance):
            return


def settle_process() -> None:
    """Make this process one in which many threads each work on pictures of their own."""
    cv2.setNumThreads(1)  # workers and callers are the parallelism; OpenCV's own threads would fight them
    keep_freed_memory()


def grouped(lines: Sequence[Line], preparation: Preparation) -> list[list[Line]]:
    """Lines that go together, the fastest first, judged by one batch of a synthetic picture."""
    if len(lines) == 1:
        return [list(lines)]
    spent, seconds = _seconds_of_a_batch(lines, preparation)
    groups: list[list[Line]] = [[]]
    for line in sorted(lines, key=lambda each: seconds[each.engine]):
        if groups[-1] and seconds[line.engine] > SLOW * spent:
            groups.append([])
        groups[-1].append(line)
        spent += seconds[line.engine]
    return groups


def _seconds_of_a_batch(lines: Sequence[Line], preparation: Preparation) -> tuple[float, dict[str, float]]:
    """How long it takes to prepare a batch, and each engine to answer it, behind a first one for warming up."""
    preparer, bundle = Preparer(preparation), Bundle(0, (SYNTHETIC,))
    preparing, seconds = 0.0, dict.fromkeys((line.engine for line in lines), 0.0)
    for _ in range(2):
        started = time.perf_counter()
        batch = next(preparer.batches(bundle, preparation.place))
        preparing = time.perf_counter() - started
        for line in lines:
            started = time.perf_counter()
            line.measure(bundle, batch)
            seconds[line.engine] = time.perf_counter() - started
    return preparing, seconds


def _pace(times: Sequence[tuple[float, int]]) -> float:
    """Pictures per second between the first bundle that was finished and the last, so without start and stop.

    Args:
        times: when the work began, and when each bundle was done with how many pictures.
    """
    first = 1 if len(times) > 2 else 0  # with one bundle, its start has to count
    return sum(pictures for _, pictures in times[first + 1 :]) / max(1e-9, times[-1][0] - times[first][0])
