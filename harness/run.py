"""Run: every picture through every condition and every contender, into records.

The loop knows nothing of noise, quantisation or engines. A feed gives batches, callers ask the contenders about
them, results are put in order and stored slice by slice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import cv2

from harness.batches import Bundle, Preparation, bundles_from_slices, pictures_per_bundle
from harness.extent import WHOLE, Extent, Shard
from harness.feed import Feed, InlineFeed
from harness.line import Line
from harness.memory import keep_freed_memory
from harness.meter import Meter
from harness.plan import Plan
from harness.prepare import Contender
from harness.progress import Advance, Progress
from harness.record import Record
from harness.results import Results
from harness.samples import Sample
from harness.speed import Speed, Staff
from harness.store import Store
from harness.until import Lookout
from harness.workers import feed_from_workers

AHEAD = 4  # bundles per worker or caller that may be out at once
TRIAL_BUNDLES = 8  # per caller, for a choice between staffs
WORTH_CHOOSING_SECONDS = 30.0  # a run that is over sooner is not worth a choice


@dataclass(frozen=True)
class Slice:
    """The pictures of one part of the store.

    Args:
        index: of the part.
        start: how many pictures come before.
        samples: the pictures.
    """

    index: int
    start: int
    samples: Sequence[Sample]


@dataclass(frozen=True)
class Trial:
    """How fast a staff was."""

    staff: Staff
    pictures_per_second: float

    def describe(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self.staff), "pictures_per_second": self.pictures_per_second}


def run(
    made: Plan, contenders: Sequence[Contender], store: Store, speed: Speed, extent: Extent, progress: Progress
) -> None:
    """Measure what the store does not hold yet, as far as the extent goes.

    Raises:
        HarnessError: the disk is full. Interrupting is safe too: complete parts stay.
    """
    slices, missing = missing_slices(made.scored.samples, store, progress, extent.shard)
    total = sum(len(each.samples) for each in slices)
    lookout = Lookout(extent.until, store, total)
    if not missing:
        return
    if missing == slices[-len(missing) :] and lookout.enough(missing[0].start):
        return
    left = sum(len(each.samples) for each in missing)
    meter = Meter()
    with ExitStack() as stack:
        line = stack.enter_context(closing(Line(made, contenders, speed.batch, meter)))
        advance = stack.enter_context(progress.task("measure", total=total, done=total - left))
        Session(line, made.preparation(speed.batch), store, lookout.enough, advance).measure(missing, speed)


class Session:
    """One go at the slices that are missing.

    Args:
        line: the contenders.
        preparation: what turns pictures into batches.
        store: where parts go.
        enough: is asked after every part whether so many pictures, from the first on, are enough.
        advance: is called for every picture that is done.
    """

    def __init__(
        self, line: Line, preparation: Preparation, store: Store, enough: Callable[[int], bool], advance: Advance
    ) -> None:
        cv2.setNumThreads(1)  # workers and callers are the parallelism; OpenCV's own threads would fight them
        keep_freed_memory()
        self.line, self.preparation, self.store, self.enough, self.advance = line, preparation, store, enough, advance
        self.trials: list[Trial] = []

    def measure(self, slices: Sequence[Slice], speed: Speed) -> None:
        """Measure slices in order, the first of them under every staff that is worth trying, and keep them all."""
        candidates = speed.candidates()
        rest = list(slices)
        if len(candidates) > 1:
            for staff in candidates:
                few = self._trial_slices(rest, staff)
                if not few:
                    break
                del rest[: len(few)]
                if self._leg(few, staff):
                    return
                pictures = sum(len(each.samples) for each in rest)
                if pictures < WORTH_CHOOSING_SECONDS * self.trials[0].pictures_per_second:
                    break
        best = max(self.trials, key=lambda trial: trial.pictures_per_second).staff if self.trials else candidates[0]
        if rest:
            self._leg(rest, best)

    def _trial_slices(self, slices: Sequence[Slice], staff: Staff) -> list[Slice]:
        wanted = TRIAL_BUNDLES * staff.callers * self._pictures_per_bundle
        few: list[Slice] = []
        while len(few) < len(slices) and sum(len(each.samples) for each in few) < wanted:
            few.append(slices[len(few)])
        return few

    @property
    def _pictures_per_bundle(self) -> int:
        conditions = sum(len(each) for each in self.preparation.pipelines.values())
        return pictures_per_bundle(self.preparation.batch, conditions)

    def _leg(self, slices: Sequence[Slice], staff: Staff) -> bool:
        """Measure and store slices with one staff; true where that was enough."""
        bundles = bundles_from_slices([each.samples for each in slices], self._pictures_per_bundle)
        times: list[tuple[float, int]] = []
        with self._measuring(bundles, staff) as results:
            waiting = iter(bundles)
            for each in slices:
                records: list[Record] = []
                done = 0
                while done < len(each.samples):
                    bundle = next(waiting)
                    records += results.take(bundle.index)
                    done += len(bundle.samples)
                    times.append((time.perf_counter(), len(bundle.samples)))
                    self.advance(len(bundle.samples))
                self.store.write_part(each.index, records, self._timing(len(each.samples), staff))
                if self.enough(each.start + len(each.samples)):
                    return True
        self.trials.append(Trial(staff, _pace(times)))
        return False

    @contextmanager
    def _measuring(self, bundles: Sequence[Bundle], staff: Staff) -> Iterator[_Collector]:
        feed = self._feed(bundles, staff)
        results = Results()
        threads = [
            threading.Thread(target=self._call, args=(feed, results), name=f"qharness caller {number}")
            for number in range(staff.callers)
        ]
        try:
            for thread in threads:
                thread.start()
            yield _Collector(feed, results)
        finally:
            feed.close()
            for thread in threads:
                thread.join()

    def _feed(self, bundles: Sequence[Bundle], staff: Staff) -> Feed:
        ahead = AHEAD * max(staff.workers, staff.callers)
        if not staff.workers:
            return InlineFeed(self.preparation, bundles, ahead, self.line.meter)
        return feed_from_workers(self.preparation, bundles, (staff.workers, staff.callers), ahead, self.line.meter)

    def _call(self, feed: Feed, results: Results) -> None:
        """What every caller thread does."""
        try:
            for delivery in feed.stream():
                placed = self.line.measure(delivery.bundle, delivery.batch)
                delivery.release()
                results.add(delivery.bundle, delivery.batch, placed)
        except BaseException as error:  # noqa: BLE001 - it is raised again where results are waited for
            results.fail(error)

    def _timing(self, pictures: int, staff: Staff) -> dict[str, Any]:
        return {
            "pictures": pictures,
            **asdict(staff),
            "batch": self.preparation.batch,
            **self.line.meter.lap(),
            "trials": [trial.describe() for trial in self.trials],
        }


class _Collector:
    """Takes results and lets the feed go on."""

    def __init__(self, feed: Feed, results: Results) -> None:
        self._feed, self._results = feed, results

    def take(self, index: int) -> list[Record]:
        """All records of a bundle."""
        records = self._results.take(index)
        self._feed.collected()
        return records


def _pace(times: Sequence[tuple[float, int]]) -> float:
    """Pictures per second between the first bundle that was finished and the last, so without start and stop."""
    if len(times) < 2 or times[-1][0] == times[0][0]:
        return 0.0
    return sum(pictures for _, pictures in times[1:]) / (times[-1][0] - times[0][0])


def missing_slices(
    samples: Sequence[Sample], store: Store, progress: Progress, shard: Shard = WHOLE
) -> tuple[list[Slice], list[Slice]]:
    """The slices that a shard owns, and those of them that the store does not hold. A damaged part is removed."""
    for part in store.damaged_parts():
        progress.say(f"warning: {part} is damaged and will be measured again")
        part.unlink()
    slices = [each for each in slices_from_samples(samples) if shard.owns(each.index)]
    return slices, [each for each in slices if not store.has_part(each.index)]


def pictures_per_part(total: int) -> int:
    """Small enough that little is lost with a killed run, large enough that 50,000 pictures make few files."""
    return max(4, min(64, -(-total // 256)))


def slices_from_samples(samples: Sequence[Sample]) -> list[Slice]:
    """The parts of a run, each a fixed stretch of the pictures."""
    size = pictures_per_part(len(samples))
    return [Slice(start // size, start, samples[start : start + size]) for start in range(0, len(samples), size)]
