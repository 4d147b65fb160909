"""Run: every picture through every condition and every contender, into records.

The loop knows nothing of noise, quantisation or engines. A feed gives batches, callers ask the contenders about
them, results are put in order and stored slice by slice (`harness.lanes`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace

from harness.errors import NothingToMeasure
from harness.extent import WHOLE, Extent, Shard
from harness.lanes import Lane, grouped, settle_process, take_turns
from harness.line import Line, lines_from_contenders
from harness.meter import Meter
from harness.plan import Plan
from harness.prepare import Contender
from harness.progress import Progress
from harness.slices import Slice, slices_from_samples
from harness.speed import Speed
from harness.store import Store
from harness.until import Lookout

AT_WORK = ".measuring"  # is there while pictures are touched, and afterwards if the process was ended by force


def run(
    made: Plan, contenders: Sequence[Contender], store: Store, speed: Speed, extent: Extent, progress: Progress
) -> None:
    """Measure what the store does not hold yet, as far as the extent goes.

    Raises:
        NothingToMeasure: the shard owns no part.
        HarnessError: the disk is full. Interrupting is safe too: complete parts stay.
    """
    slices = owned_slices(made, store, progress, extent.shard)
    if not slices:
        raise NothingToMeasure(f"shard {extent.shard} has nothing to measure: the run has fewer parts than shards")
    lookout = Lookout(extent.until, store, slices, {contender.engine for contender in contenders})
    missing = missing_slices(slices, contenders, store)
    if lookout.enough() or not missing:
        return
    settle_process()
    preparation = made.preparation(speed.batch)
    with ExitStack() as stack:
        speed = stack.enter_context(_careful(store, speed, progress))
        meter = Meter()
        lines = [
            stack.enter_context(closing(line)) for line in lines_from_contenders(made, contenders, speed.batch, meter)
        ]
        # A rule that may end the run is about all cells, so it is known soonest when all of them go together.
        groups = [lines] if extent.until else grouped(lines, preparation)
        meter.lap()  # opening engines is no measuring
        for group in groups[1:]:
            progress.say(
                f"{_names(group)}: far slower than the rest; they take turns, each with an equal share of the time"
            )
        lanes = [Lane(group, preparation, store, speed, missing) for group in groups]
        total, left = len(lanes) * _pictures(slices), sum(lane.pictures_left for lane in lanes)
        with progress.task("measure", total=total, done=total - left) as advance:
            take_turns(lanes, lookout.enough, advance)


def owned_slices(made: Plan, store: Store, progress: Progress, shard: Shard = WHOLE) -> list[Slice]:
    """The slices that a shard owns. Damaged parts of the store are removed, so that they are measured again."""
    for part in store.damaged_parts():
        progress.say(f"warning: {part} is damaged and will be measured again")
        part.unlink()
    slices = slices_from_samples(made.scored.samples, len(made.distinct))
    return [each for each in slices if shard.owns(each.index)]


def missing_slices(slices: Sequence[Slice], contenders: Sequence[Contender], store: Store) -> list[Slice]:
    """The slices of which the store lacks the part of some engine."""
    engines = {contender.engine for contender in contenders}
    return [each for each in slices if not all(store.has_part(each.index, engine) for engine in engines)]


@contextmanager
def _careful(store: Store, speed: Speed, progress: Progress) -> Iterator[Speed]:
    """The speed, with workers where a session before this one was ended by force.

    It may have been a picture that ends whatever process decodes it. A worker that ends so costs that picture; this
    process would end at the same place again and again.
    """
    if store.has(AT_WORK) and speed.workers is None:
        progress.say(
            "The session before this one was ended by force. In case a picture did it, pictures are now prepared in "
            "worker processes, and one that ends them is a row with an error."
        )
        speed = replace(speed, inline=False)
    store.write_text(AT_WORK, "")
    try:
        yield speed
    finally:
        store.remove(AT_WORK)


def _pictures(slices: Sequence[Slice]) -> int:
    return sum(len(each.samples) for each in slices)


def _names(group: Sequence[Line]) -> str:
    return ", ".join(line.engine for line in group)
