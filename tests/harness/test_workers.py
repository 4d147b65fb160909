"""Worker processes: they prepare what a thread prepares, and their deaths cost nothing but time."""

from __future__ import annotations

import os
import random
import re
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from harness.batches import Bundle, Preparation, Row, bundles_from_slices
from harness.errors import HarnessError
from harness.feed import Feed, InlineFeed, Todo
from harness.meter import Meter
from harness.plan import plan
from harness.recipe import Recipe
from harness.report.build import Report
from harness.samples import Sample
from harness.sources.storage import Extent
from harness.speed import Speed
from harness.workers import IN_VAIN, PATIENCE_SECONDS, WorkerFeed
from noise.base import Pipeline, Step
from tests.harness.test_resume import rows_of

Batches = dict[tuple[int, int], tuple[tuple[Row, ...], npt.NDArray[np.float32]]]


@pytest.fixture
def preparation(small: Recipe) -> Preparation:
    return plan(small).preparation(batch=3)


@pytest.fixture
def bundles(small: Recipe) -> list[Bundle]:
    return bundles_from_slices([plan(small).scored.samples[:9]], 2)


def all_batches(feed: Feed) -> Batches:
    """Every batch by bundle and number; the last attempt counts."""
    found: Batches = {}
    for delivery in feed.stream():
        found[delivery.bundle.index, delivery.batch.number] = (delivery.batch.rows, delivery.batch.inputs.copy())
        delivery.release()
        if delivery.batch.last:
            feed.collected()
    return found


def worker_feed(
    preparation: Preparation,
    bundles: list[Bundle],
    workers: int,
    slots: int = 2,
    patience_seconds: float = PATIENCE_SECONDS,
) -> WorkerFeed:
    return WorkerFeed(preparation, Todo(bundles, ahead=8), workers, slots, Meter(), patience_seconds)


def equal(ours: Batches, theirs: Mapping[tuple[int, int], tuple[tuple[Row, ...], npt.NDArray[np.float32]]]) -> bool:
    return ours.keys() == theirs.keys() and all(
        ours[key][0] == theirs[key][0] and np.array_equal(ours[key][1], theirs[key][1]) for key in ours
    )


def children() -> list[int]:
    """The processes that this one started and that are still there."""
    found: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # a thread that has ended meanwhile
            found += map(int, (task / "children").read_text().split())
    return found


@pytest.mark.parametrize(("workers", "slots"), [(1, 1), (2, 1), (4, 3)])
def test_workers_make_the_batches_that_a_thread_makes(
    preparation: Preparation, bundles: list[Bundle], workers: int, slots: int
) -> None:
    serial = all_batches(InlineFeed(preparation, bundles, 8, Meter()))
    assert sum(len(rows) for rows, _ in serial.values()) == 9 * 4
    with closing(worker_feed(preparation, bundles, workers, slots)) as feed:
        assert equal(all_batches(feed), serial)


def test_no_process_outlives_its_feed(preparation: Preparation, bundles: list[Bundle]) -> None:
    before = set(children())
    with closing(worker_feed(preparation, bundles, 2)) as feed:
        next(feed.stream())
        assert len(set(children()) - before) == 2
    assert set(children()) == before


def test_a_worker_waits_for_room(preparation: Preparation, bundles: list[Bundle]) -> None:
    with closing(worker_feed(preparation, bundles, workers=1, slots=2)) as feed:
        stream = feed.stream()
        held = [next(stream), next(stream)]
        time.sleep(0.5)
        assert not feed._filled  # both slots are out, so nothing more can have come
        for delivery in held:
            delivery.release()
        next(stream)


@pytest.fixture
def trap(tmp_path: Path, bundles: list[Bundle]) -> tuple[list[Bundle], Callable[[], int]]:
    """The bundles, where reading the fifth picture takes for ever, and a function that kills whoever reads it."""
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    bundle = bundles[2]
    trapped = replace(bundle, samples=(Sample(bundle.samples[0].id, Extent(str(pipe)), 0), *bundle.samples[1:]))

    killed: list[int] = []

    def kill() -> int:
        with pipe.open("wb"):  # which waits for a reader, and lets later ones in while it is open
            while True:
                reader = next((child for child in children() if child not in killed and _reads(child, pipe)), None)
                if reader is not None:
                    os.kill(reader, signal.SIGKILL)
                    killed.append(reader)
                    return reader
                time.sleep(0.01)

    return [*bundles[:2], trapped, *bundles[3:]], kill


def _reads(process: int, path: Path) -> bool:
    """Whether a process has a file open for reading. A process just forked has what its parent has, to write."""
    try:
        return any(
            os.readlink(each) == str(path) and int(_flags(process, each.name), 8) & os.O_ACCMODE == os.O_RDONLY
            for each in Path(f"/proc/{process}/fd").iterdir()
        )
    except OSError:  # it has gone meanwhile
        return False


def _flags(process: int, descriptor: str) -> str:
    return re.findall(r"flags:\s*(\d+)", Path(f"/proc/{process}/fdinfo/{descriptor}").read_text())[0]


def test_a_picture_that_kills_twice_is_a_row_with_that_error(
    preparation: Preparation, trap: tuple[list[Bundle], Callable[[], int]]
) -> None:
    bundles, kill = trap
    killed: list[int] = []
    killer = threading.Thread(target=lambda: killed.extend((kill(), kill())))
    serial = all_batches(InlineFeed(preparation, [*bundles[:2], *bundles[3:]], 8, Meter()))
    with closing(worker_feed(preparation, bundles, 2)) as feed:
        killer.start()
        found = all_batches(feed)
    killer.join()
    assert len(set(killed)) == 2
    rows = [row for (index, _), (each, _) in found.items() if index == 2 for row in each]
    assert [row.error for row in rows[:4]] == [
        "worker: the process that prepared this picture ended twice, the last time by signal 9 (Killed)"
    ] * 4
    assert [row.error for row in rows[4:]] == [None] * 4
    assert equal({key: value for key, value in found.items() if key[0] != 2}, serial)


def test_a_picture_that_kills_once_is_done_again(
    preparation: Preparation, trap: tuple[list[Bundle], Callable[[], int]], bundles: list[Bundle]
) -> None:
    trapped, kill = trap
    pipe, picture = (Path(each[2].samples[0].locator.path) for each in (trapped, bundles))

    def kill_and_mend() -> None:
        content = picture.read_bytes()
        kill()
        pipe.unlink()
        pipe.write_bytes(content)

    killer = threading.Thread(target=kill_and_mend)
    with closing(worker_feed(preparation, trapped, 2)) as feed:
        killer.start()
        found = all_batches(feed)
    killer.join()
    assert equal(found, all_batches(InlineFeed(preparation, bundles, 8, Meter())))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_picture_on_which_workers_hang_is_a_row_with_that_error(
    preparation: Preparation, trap: tuple[list[Bundle], Callable[[], int]], workers: int
) -> None:
    bundles, _ = trap  # nobody ever writes
    before = set(children())
    serial = all_batches(InlineFeed(preparation, [*bundles[:2], *bundles[3:]], 8, Meter()))
    with closing(worker_feed(preparation, bundles, workers, patience_seconds=2)) as feed:
        found = all_batches(feed)
    rows = [row for (index, _), (each, _) in found.items() if index == 2 for row in each]
    errors = {row.error for row in rows if row.position == 0}
    assert len(rows) == 8
    assert all(
        re.fullmatch(r"worker: .* ended twice, the last time because it hung for [2-9] s", error or "bare")
        for error in errors
    )
    assert {row.error for row in rows if row.position == 1} == {None}
    assert equal({key: value for key, value in found.items() if key[0] != 2}, serial)
    assert set(children()) == before


def test_a_worker_that_waits_does_not_hang(preparation: Preparation, bundles: list[Bundle]) -> None:
    patience_seconds = 1.0
    before = set(children())
    feed = WorkerFeed(preparation, Todo(bundles, ahead=2), 1, 1, Meter(), patience_seconds)
    with closing(feed):
        stream = feed.stream()
        first = next(stream)
        (worker,) = set(children()) - before
        time.sleep(2 * patience_seconds)  # for a free slot, in the middle of a bundle
        assert not first.batch.last
        first.release()
        finished = 0
        while finished < 2:
            delivery = next(stream)
            delivery.release()
            finished += delivery.batch.last
        time.sleep(2 * patience_seconds)  # for work: nothing more may be out before something is collected
        feed.collected()
        next(stream).release()
        assert set(children()) - before == {worker}


def test_a_run_whose_workers_are_killed_at_random_ends_row_for_row_the_same(
    small: Recipe, finished: Path, run_recipe: Callable[..., Report], tmp_path: Path
) -> None:
    before, over, draw = set(children()), threading.Event(), random.Random(0)
    killed: list[int] = []

    def kill_now_and_then() -> None:
        while not over.wait(draw.uniform(0.2, 0.6)) and len(killed) < 6:
            workers = sorted(set(children()) - before)
            if workers:
                killed.append(draw.choice(workers))
                os.kill(killed[-1], signal.SIGKILL)

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    try:
        run_recipe(replace(small), speed=Speed(workers=2, callers=1))
    finally:
        over.set()
        killer.join()
    assert killed
    assert rows_of(tmp_path / "run").equals(rows_of(finished))


def test_workers_that_always_die_are_no_endless_loop(preparation: Preparation, bundles: list[Bundle]) -> None:
    before, over = set(children()), threading.Event()
    feed = worker_feed(preparation, bundles, 1, slots=1)

    def kill_at_once() -> None:
        while not over.wait(0.01):
            for worker in feed._workers:
                worker.process.kill()

    killer = threading.Thread(target=kill_at_once)
    with closing(feed):
        killer.start()
        try:
            with pytest.raises(HarnessError, match=f"died {IN_VAIN + 1} times in a row"):
                deque(feed.stream(), maxlen=0)
        finally:
            over.set()
            killer.join()
    assert set(children()) <= before


def test_a_bug_in_a_worker_is_raised_with_its_traceback(preparation: Preparation, bundles: list[Bundle]) -> None:
    broken = replace(preparation, pipelines={"": {0: Pipeline((Step("decode", "no_such_decoder", {}),))}})
    with closing(worker_feed(broken, bundles, 1)) as feed, pytest.raises(RuntimeError, match="no_such_decoder"):
        all_batches(feed)


def test_a_caller_that_prepares_its_own_pictures_stops_within_a_bundle(
    preparation: Preparation, bundles: list[Bundle]
) -> None:
    feed = InlineFeed(preparation, bundles, 8, Meter())
    stream = feed.stream()
    assert not next(stream).batch.last
    feed.close()
    assert list(stream) == []


def test_ahead_bounds_what_is_out(bundles: list[Bundle]) -> None:
    todo = Todo(bundles, ahead=2)
    assert [todo.take_now(), todo.take_now(), todo.take_now()] == [bundles[0], bundles[1], None]
    todo.collected()
    assert todo.take() == bundles[2]
    todo.close()
    assert todo.exhausted
    assert todo.take() is None


def test_workers_know_where_the_overlays_of_frost_are(small: Recipe, tmp_path: Path) -> None:
    """They look there themselves: what this process has found means nothing in another."""
    made = plan(replace(small, noise=("clean",)))
    told = replace(made.preparation(2), frost_overlays=str(tmp_path / "nowhere"))
    bundles = bundles_from_slices([made.scored.samples[:2]], 2)
    with closing(worker_feed(told, bundles, 1)) as feed, pytest.raises(RuntimeError, match="nowhere"):
        all_batches(feed)
