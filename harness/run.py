"""Run: every picture through every condition and every contender, into records.

The loop knows nothing of noise, quantisation or engines. A feed gives batches, callers ask the contenders about
them, results are put in order and stored slice by slice (`harness.lanes`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing

from harness.extent import WHOLE, Extent, Shard
from harness.lanes import Lane, Slice, grouped, take_turns
from harness.line import Line, lines_from_contenders
from harness.meter import Meter
from harness.plan import Plan
from harness.prepare import Contender
from harness.progress import Progress
from harness.samples import Sample
from harness.speed import Speed
from harness.store import Store
from harness.until import Lookout


def run(
    made: Plan, contenders: Sequence[Contender], store: Store, speed: Speed, extent: Extent, progress: Progress
) -> None:
    """Measure what the store does not hold yet, as far as the extent goes.

    Raises:
        HarnessError: the disk is full. Interrupting is safe too: complete parts stay.
    """
    slices = owned_slices(made.scored.samples, store, progress, extent.shard)
    missing = missing_slices(slices, contenders, store)
    lookout = Lookout(extent.until, store, _pictures(slices))
    if not missing:
        return
    if missing == slices[-len(missing) :] and lookout.enough(missing[0].start):
        return
    preparation = made.preparation(speed.batch)
    with ExitStack() as stack:
        lines = [
            stack.enter_context(closing(line)) for line in lines_from_contenders(made, contenders, speed.batch, Meter())
        ]
        # A rule that may end the run is about all cells, so it is known soonest when all of them go together.
        groups = [lines] if extent.until else grouped(lines, preparation, missing[0].samples[0])
        for group in groups[1:]:
            progress.say(
                f"{_names(group)}: far slower than the rest; they take turns, each with an equal share of the time"
            )
        lanes = [Lane(group, preparation, store, speed, missing) for group in groups]
        total, left = len(lanes) * _pictures(slices), sum(lane.pictures_left for lane in lanes)
        with progress.task("measure", total=total, done=total - left) as advance:
            take_turns(lanes, lookout.enough, advance)


def owned_slices(samples: Sequence[Sample], store: Store, progress: Progress, shard: Shard = WHOLE) -> list[Slice]:
    """The slices that a shard owns. Damaged parts of the store are removed, so that they are measured again."""
    for part in store.damaged_parts():
        progress.say(f"warning: {part} is damaged and will be measured again")
        part.unlink()
    return [each for each in slices_from_samples(samples) if shard.owns(each.index)]


def missing_slices(slices: Sequence[Slice], contenders: Sequence[Contender], store: Store) -> list[Slice]:
    """The slices of which the store lacks the part of some engine."""
    engines = {contender.engine for contender in contenders}
    return [each for each in slices if not all(store.has_part(each.index, engine) for engine in engines)]


def pictures_per_part(total: int) -> int:
    """Small enough that little is lost with a killed run, large enough that 50,000 pictures make few files."""
    return max(4, min(64, -(-total // 256)))


def slices_from_samples(samples: Sequence[Sample]) -> list[Slice]:
    """The parts of a run, each a fixed stretch of the pictures."""
    size = pictures_per_part(len(samples))
    return [Slice(start // size, start, samples[start : start + size]) for start in range(0, len(samples), size)]


def _pictures(slices: Sequence[Slice]) -> int:
    return sum(len(each.samples) for each in slices)


def _names(group: Sequence[Line]) -> str:
    return ", ".join(line.engine for line in group)
