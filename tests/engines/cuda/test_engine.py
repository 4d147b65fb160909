"""An engine on the ring keeps what every engine keeps; here its device is a double, and its network is in NumPy."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from engines.artifact import Artifact
from engines.base import Engine, EngineError, EngineOptions, EngineUnavailable, call
from engines.cuda import TRANSFERS
from engines.cuda.engine import RingEngine, process_locks
from engines.cuda.locks import PageLocks
from engines.cuda.ring import SLOTS
from engines.cuda.transfers import (
    NO_DEVICE,
    OLD_DRIVER,
    OUT_OF_MEMORY,
    Bytes,
    Transfers,
    cuda_error,
    opened,
    transfers_named,
)
from tests.engines import conformance
from tests.engines.cuda.lazy import LazyCuda, LazyStream
from tests.engines.tiny import CLASSES, pictures, tiny_artifact

BATCH, OTHER = pictures(3, seed=1), pictures(3, seed=2)
WEIGHTS = np.random.default_rng(0).normal(size=(BATCH[0].size, CLASSES)).astype(np.float32)
CHECKS = (
    partial(conformance.check_refuses_wrong_feeds, batch=BATCH),
    partial(conformance.check_outputs_are_finite, batch=BATCH),
    partial(conformance.check_repeats, batch=BATCH),
    partial(conformance.check_ignores_earlier_batches, batch=BATCH, other=OTHER),
    partial(conformance.check_rows_do_not_depend_on_the_batch, batch=BATCH),
    partial(conformance.check_caller_owns_outputs, batch=BATCH, other=OTHER),
    partial(conformance.check_closes, batch=BATCH),
    partial(conformance.check_facts, options=EngineOptions()),
    partial(conformance.check_threads, batches=[BATCH, OTHER, BATCH[:1], OTHER[:2]]),
)


def scores(batch: np.ndarray) -> np.ndarray:
    return np.stack([row.reshape(-1) @ WEIGHTS for row in batch])


class Product:
    """A network of one product, given to the double as a kernel."""

    def __init__(self, transfers: Transfers, stream: LazyStream) -> None:
        assert isinstance(transfers, LazyCuda)
        self.cuda, self.stream, self.closed = transfers, stream, False
        self.most_rows: int | None = None

    def enqueue(self, rows: int, source: int, target: int) -> None:
        def compute() -> None:
            taken = self.cuda.at(source, rows * BATCH[0].nbytes).view(np.float32).reshape(rows, *BATCH.shape[1:])
            self.cuda.at(target, rows * CLASSES * 4).view(np.float32)[:] = scores(taken).reshape(-1)

        self.cuda.give(self.stream, compute)

    def facts(self) -> dict[str, Any]:
        return {"runtime": "NumPy", "provider": "a double", "integer_kernels": True, "threads": 1}

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return tiny_artifact(tmp_path)


@pytest.fixture(params=[None, 3], ids=["late", "random"])
def cuda(request: pytest.FixtureRequest) -> Iterator[LazyCuda]:
    cuda = LazyCuda(None if request.param is None else np.random.default_rng(request.param))
    yield cuda
    process_locks.cache_clear()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.func.__name__)
def test_ring_engine_keeps_what_engines_keep(check: Any, cuda: LazyCuda, artifact: Artifact) -> None:
    check(lambda: RingEngine(artifact, cuda, Product))
    assert cuda.idle(), "closing did not give everything back"


def test_ring_engine_declares_the_artifact(cuda: LazyCuda, artifact: Artifact) -> None:
    conformance.check_declares_the_artifact(lambda: RingEngine(artifact, cuda, Product), artifact)


def test_batches_overlap_and_are_collected_in_any_order(cuda: LazyCuda, artifact: Artifact) -> None:
    engine = RingEngine(artifact, cuda, Product)
    batches = [pictures(2, seed=seed) for seed in range(SLOTS)]
    slots = [engine.submit({"x": batch}) for batch in batches]
    for slot, batch in reversed(list(zip(slots, batches, strict=True))):
        assert np.array_equal(engine.collect(slot)["y"], scores(batch))
    assert len(engine.take_stages()) == SLOTS
    assert engine.take_stages() == []
    engine.close()


def test_worker_memory_is_copied_from_where_it_is_until_it_is_gone(cuda: LazyCuda, artifact: Artifact) -> None:
    """Two engines are shown the same memory. It stays locked while a batch in it may still be under way."""
    engines = [RingEngine(artifact, cuda, Product) for _ in range(2)]
    memory = np.zeros(4096 + BATCH.nbytes, np.uint8)
    batch = memory[4096:].view(np.float32).reshape(BATCH.shape)
    batch[:] = BATCH
    for engine in engines:
        engine.page_lock(memory)
    assert len(cuda.locked) == 1
    slot = engines[0].submit({"x": batch})
    assert slot.source is batch
    assert not np.array_equal(slot.input[:3], BATCH), "it was copied between the two"
    del memory, batch
    gc.collect()
    assert len(cuda.locked) == 1, "memory was unlocked under a copy"
    assert np.array_equal(engines[0].collect(slot)["y"], scores(BATCH))
    gc.collect()
    assert not cuda.locked
    for engine in engines:
        engine.close()


def test_array_that_is_collected_while_another_is_locked_does_not_hang() -> None:
    """A collection may begin anywhere, inside the lock too, and runs the finaliser of the old array in that thread."""
    old = [np.zeros(64, np.uint8)]

    class Collecting(LazyCuda):
        def lock(self, memory: Bytes) -> None:
            super().lock(memory)
            if memory.nbytes == 128:
                old.clear()

    cuda = Collecting()
    locks = PageLocks(cuda)
    locks.lock(old[0])
    fresh = np.zeros(128, np.uint8)
    thread = threading.Thread(target=locks.lock, args=(fresh,), daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "the finaliser waits for a lock that its own thread holds"
    assert list(cuda.locked.values()) == [128]
    assert locks.covers(fresh)


def test_memory_beside_the_locked_one_is_copied_first(cuda: LazyCuda, artifact: Artifact) -> None:
    engine = RingEngine(artifact, cuda, Product)
    memory = np.zeros(2 * BATCH.nbytes, np.uint8)
    engine.page_lock(memory)
    whole = memory.view(np.float32).reshape(2, *BATCH.shape)
    whole[:] = BATCH
    for batch in (BATCH, whole[0, ::2], whole[:, 0]):
        slot = engine.submit({"x": batch})
        assert slot.source is None
        assert np.array_equal(engine.collect(slot)["y"], scores(batch))
    engine.close()


def test_too_little_device_memory_is_an_error_of_the_batch_alone(artifact: Artifact) -> None:
    engine: Engine = RingEngine(artifact, LazyCuda(total=SLOTS * 2 * BATCH[0].nbytes + 4096), Product)
    with pytest.raises(EngineError, match="smaller --batch"):
        call(engine, {"x": pictures(40)})
    assert np.array_equal(call(engine, {"x": BATCH[:1]}).outputs["y"], scores(BATCH[:1]))
    engine.close()


def test_nothing_is_page_locked_for_a_batch_that_the_device_has_no_room_for(artifact: Artifact) -> None:
    asked: list[int] = []

    class Noting(LazyCuda):
        def host(self, size: int) -> Bytes:
            asked.append(size)
            return super().host(size)

    engine: Engine = RingEngine(artifact, Noting(total=4096), Product)
    with pytest.raises(EngineError, match="smaller --batch"):
        call(engine, {"x": pictures(40)})
    engine.close()
    assert not asked


def test_network_that_cannot_be_opened_leaves_nothing_behind(cuda: LazyCuda, artifact: Artifact) -> None:
    def refuse(transfers: Transfers, stream: LazyStream) -> Product:
        raise EngineError("a plan for another GPU")

    with pytest.raises(EngineError, match="another GPU"):
        RingEngine(artifact, cuda, refuse)
    assert cuda.idle()


def test_batch_that_is_too_large_for_the_network_is_cut(cuda: LazyCuda, artifact: Artifact) -> None:
    class Small(Product):
        def __init__(self, transfers: Transfers, stream: LazyStream) -> None:
            super().__init__(transfers, stream)
            self.most_rows = 4

        def enqueue(self, rows: int, source: int, target: int) -> None:
            assert rows <= 4
            super().enqueue(rows, source, target)

    engine = RingEngine(artifact, cuda, Small)
    for rows in (1, 4, 5, 11):
        batch = pictures(rows, seed=rows)
        assert np.array_equal(call(engine, {"x": batch}).outputs["y"], scores(batch))
    engine.close()


def test_threads_share_the_slots(cuda: LazyCuda, artifact: Artifact) -> None:
    engine = RingEngine(artifact, cuda, Product)
    batches = [pictures(1 + seed % 5, seed=seed) for seed in range(60)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda batch: call(engine, {"x": batch}).outputs["y"], batches))
    assert all(np.array_equal(answer, scores(batch)) for answer, batch in zip(answers, batches, strict=True))
    engine.close()


def test_missing_packages_are_named_with_their_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str) -> Any:
        raise ModuleNotFoundError(name="cuda")

    opened.cache_clear()
    monkeypatch.setattr("engines.cuda.transfers.importlib.import_module", missing)
    with pytest.raises(EngineUnavailable, match=r"qharness\[cuda\].* or .*qharness\[pycuda\]"):
        transfers_named()
    with pytest.raises(EngineUnavailable, match=r"CUDA: pip install 'qharness\[pycuda\]'$"):
        transfers_named("pycuda")


def test_back_end_is_opened_once_however_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of them would keep two lists of what is page-locked, and lock the same memory twice."""
    module = ModuleType("a back-end")
    vars(module)["open_bindings"] = LazyCuda
    opened.cache_clear()
    monkeypatch.setattr("engines.cuda.transfers.importlib.import_module", lambda name: module)
    assert transfers_named() is transfers_named("cuda-bindings")
    opened.cache_clear()


def test_name_that_is_misspelt_is_answered_with_the_nearest() -> None:
    with pytest.raises(EngineError, match=r"engine_transfers: .* got 'pycuuda'; did you mean 'pycuda'\?"):
        transfers_named("pycuuda")


def test_unknown_back_end_is_refused() -> None:
    with pytest.raises(EngineError, match=f"expected one of {', '.join(TRANSFERS)}; got 'cupy'"):
        transfers_named("cupy")


@pytest.mark.parametrize(
    ("code", "kind", "advice"),
    [
        (OUT_OF_MEMORY, EngineError, "smaller --batch"),
        (OLD_DRIVER, EngineUnavailable, "update the driver"),
        (NO_DEVICE, EngineUnavailable, "--gpus all"),
        (700, EngineError, "start the command again"),
    ],
)
def test_failure_of_cuda_says_what_to_do(code: int, kind: type[EngineError], advice: str) -> None:
    error = cuda_error("cuda-bindings", "a copy in", code, "cudaErrorSomething (some thing)")
    assert type(error) is kind
    assert str(error).startswith("cuda-bindings: a copy in failed: cudaErrorSomething (some thing). ")
    assert advice in str(error)


def test_network_is_timed_alone_with_its_input_on_the_device(cuda: LazyCuda, artifact: Artifact) -> None:
    started: list[int] = []

    class Counted(Product):
        def enqueue(self, rows: int, source: int, target: int) -> None:
            started.append(rows)
            super().enqueue(rows, source, target)

    engine = RingEngine(artifact, cuda, Counted)
    assert engine.resident_ms(4, 5) > 0
    assert started == [4] * 5
    assert not engine.take_stages(), "nothing was copied, so there are no stages"
    assert np.array_equal(call(engine, {"x": BATCH}).outputs["y"], scores(BATCH))
    engine.close()
    with pytest.raises(EngineError, match="is closed"):
        engine.resident_ms(4, 5)
    assert cuda.idle()
