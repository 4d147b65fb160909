"""Workers write into memory that is page-locked, and the ring copies from there: no copy lies between the two.

The device is a double; workers, shared memory, session and run are real.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from itertools import chain

import numpy as np
import numpy.typing as npt
import pytest

from engines import ENGINES, Entry
from engines.artifact import Artifact
from engines.base import EngineOptions, PageLocking
from engines.cuda.engine import RingEngine
from engines.cuda.locks import address_of
from engines.cuda.ring import Slot
from harness.batches import bundles_from_slices
from harness.feed import Todo
from harness.meter import Meter
from harness.plan import plan
from harness.recipe import Recipe
from harness.report.build import Report
from harness.speed import Speed
from harness.workers import WorkerFeed
from tests.engines.cuda.lazy import LazyCuda
from tests.engines.test_ort_network import Deferred

CUDA = LazyCuda(np.random.default_rng(0))
in_place: list[bool] = []


class Noting(RingEngine):
    """Notes whether batches were sent from where they were."""

    def collect(self, slot: Slot) -> dict[str, npt.NDArray[np.float32]]:
        in_place.append(slot.source is not None)
        return super().collect(slot)


def open_noting(artifact: Artifact, options: EngineOptions) -> Noting:
    return Noting(artifact, CUDA, lambda cuda, stream: Deferred(artifact, cuda, stream), checked=True)


@pytest.fixture
def recipe(small: Recipe, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    certify = "engines.ort_certificate:certify_cpu"
    monkeypatch.setitem(ENGINES, "ring", Entry(f"{__name__}:open_noting", "a double", "cpu", certify, "ort-cpu"))
    in_place.clear()
    return replace(small, engines=("ring:fp32", "ort-cpu:fp32"), noise=("clean", "brightness:5"))


@pytest.mark.parametrize("workers", [2, 0])
def test_run_on_the_ring_copies_from_the_memory_of_workers(
    recipe: Recipe, run_recipe: Callable[..., Report], workers: int
) -> None:
    report = run_recipe(recipe, speed=Speed(workers=workers, callers=2, batch=4))
    # 16 pictures under 2 conditions, 4 at a time; the checks before the run prepare their few pictures themselves.
    assert in_place.count(True) == (8 if workers else 0)
    for row in report.of_kind("condition"):
        assert row.accuracy["ring:fp32"] == row.accuracy["ort-cpu:fp32"]
    gc.collect()
    assert CUDA.idle(), "page locks or memory were not given back"


def test_every_batch_lies_in_memory_that_was_shown_also_after_a_worker_died(small: Recipe) -> None:
    shown: list[tuple[int, int]] = []
    made = plan(small)
    bundles = bundles_from_slices([made.scored.samples[:9]], 2)
    feed = WorkerFeed(made.preparation(batch=3), Todo(bundles, ahead=8), 1, 2, Meter())
    with closing(feed):
        feed.lock_pages(lambda memory: shown.append((address_of(memory), address_of(memory) + memory.nbytes)))
        stream = feed.stream()
        first = next(stream)
        os.kill(feed._workers[0].process.pid, signal.SIGKILL)
        for delivery in chain([first], stream):
            start = address_of(delivery.batch.inputs)
            assert any(low <= start and start + delivery.batch.inputs.nbytes <= high for low, high in shown)
            delivery.release()
            if delivery.batch.last:
                feed.collected()
    assert len(shown) == 2


def test_engine_on_the_ring_offers_page_locks_and_one_on_the_cpu_does_not(small: Recipe) -> None:
    made = plan(small)
    with closing(open_noting(made.artifact, EngineOptions())) as engine:
        assert isinstance(engine, PageLocking)
    assert not isinstance(Deferred, PageLocking)
