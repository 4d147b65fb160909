"""The ring: right answers under any order that its events allow, and no quiet wrong one where a wait is forgotten."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from engines.base import EngineError
from engines.cuda.ring import Ring, RingError, Row, Slot, State, Streams
from tests.engines.cuda.lazy import LazyCuda, LazyEvent, LazyStream

WIDTH = 5
KINDS = (Row((WIDTH,), "int32"), Row((2, WIDTH), "int32"))


class Doubling:
    """A ring around a network whose answer to x is (2 x, x)."""

    def __init__(self, cuda: LazyCuda, slots: int = 3, checked: bool = True) -> None:
        self.cuda = cuda
        self.streams = Streams(cuda.stream(), cuda.stream(), cuda.stream())
        self.ring = Ring(cuda, self.streams, self.enqueue, KINDS, slots, checked)

    def enqueue(self, rows: int, source: int, target: int) -> None:
        def compute() -> None:
            x = self.cuda.at(source, rows * KINDS[0].nbytes).view("int32").reshape(rows, WIDTH)
            y = self.cuda.at(target, rows * KINDS[1].nbytes).view("int32").reshape(rows, 2, WIDTH)
            y[:, 0], y[:, 1] = 2 * x, x

        self.cuda.give(self.streams.compute, compute)

    def send(self, batch: np.ndarray) -> Slot:
        slot = self.ring.acquire(len(batch))
        slot.input[: len(batch)] = batch
        self.ring.submit(slot, len(batch))
        return slot

    def fetch(self, slot: Slot) -> np.ndarray:
        answer = self.ring.collect(slot).copy()
        self.ring.release(slot)
        return answer

    def close(self) -> None:
        self.ring.close()
        for stream in (self.streams.copy_in, self.streams.compute, self.streams.copy_out):
            self.cuda.destroy(stream)


def batch_of(value: int, rows: int = 3) -> np.ndarray:
    return np.arange(value, value + rows * WIDTH, dtype=np.int32).reshape(rows, WIDTH)


def assert_answers(answer: np.ndarray, batch: np.ndarray) -> None:
    assert np.array_equal(answer, np.stack([2 * batch, batch], axis=1))


def rounds(doubling: Doubling, generator: random.Random, count: int = 12) -> None:
    """Batches of several sizes, as many under way as there are slots, collected in any order."""
    under_way: list[tuple[Slot, np.ndarray]] = []
    for number in range(count):
        batch = batch_of(100 * number, generator.randint(1, 4) if number else 4)
        under_way.append((doubling.send(batch), batch))
        while len(under_way) > generator.randint(0, 2):
            slot, sent = under_way.pop(generator.randrange(len(under_way)))
            assert_answers(doubling.fetch(slot), sent)


@pytest.mark.parametrize("seed", [None, *range(20)])
def test_ring_answers_right_in_any_order_that_its_events_allow(seed: int | None) -> None:
    cuda = LazyCuda(None if seed is None else np.random.default_rng(seed))
    doubling = Doubling(cuda)
    rounds(doubling, random.Random(seed))
    doubling.close()
    assert cuda.idle()


class Forgetful(LazyCuda):
    """Forgets one of a batch's waits: 0, the network's for the copy in; 1, the copy out's for it; 2, the caller's."""

    def __init__(self, forgotten: int, order: np.random.Generator | None = None) -> None:
        super().__init__(order)
        self.forgotten = forgotten
        self.waits = self.synchronised = 0

    def wait(self, stream: LazyStream, event: LazyEvent) -> None:
        self.waits += 1
        if (self.waits - 1) % 2 != self.forgotten:
            super().wait(stream, event)

    def synchronise(self, event: LazyEvent) -> None:
        self.synchronised += 1
        if self.forgotten != 2:
            super().synchronise(event)


NONE, FORGOTTEN = 3, range(3)


def test_batch_has_three_waits_each_of_which_is_forgotten_below() -> None:
    cuda = Forgetful(NONE)
    doubling = Doubling(cuda)
    for _ in range(5):
        assert_answers(doubling.fetch(doubling.send(batch_of(1))), batch_of(1))
    assert (cuda.waits, cuda.synchronised) == (5 * 2, 5)


@pytest.mark.parametrize("forgotten", FORGOTTEN)
def test_forgotten_wait_is_caught_by_the_canary(forgotten: int) -> None:
    doubling = Doubling(Forgetful(forgotten))
    with pytest.raises(RingError, match=r"batch 1 came back as batch .*events of the ring are in a wrong order"):
        doubling.fetch(doubling.send(batch_of(1)))


@pytest.mark.parametrize("forgotten", FORGOTTEN)
def test_answer_with_the_right_canary_is_right_whatever_was_forgotten(forgotten: int) -> None:
    """At random orders a forgotten wait is often harmless; whenever it is not, the canary tells."""
    caught = 0
    for seed in range(100):
        doubling = Doubling(Forgetful(forgotten, np.random.default_rng(seed)))
        try:
            rounds(doubling, random.Random(seed))
        except RingError:
            caught += 1
    assert caught > 0


@pytest.mark.parametrize("checked", [False, True])
def test_pictures_that_are_overwritten_on_their_way_are_caught_by_the_checksum_alone(checked: bool) -> None:
    doubling = Doubling(LazyCuda(), checked=checked)
    for _ in range(3):
        assert_answers(doubling.fetch(doubling.send(batch_of(1))), batch_of(1))
    slot = doubling.send(batch_of(1))
    slot.input[0] += 1
    if checked:
        with pytest.raises(RingError, match="the pictures of batch 4 were overwritten while they were on their way"):
            doubling.fetch(slot)
    else:
        assert not np.array_equal(doubling.fetch(slot), 2 * batch_of(1))


def test_stages_are_measured_by_events() -> None:
    doubling = Doubling(LazyCuda())
    slot = doubling.send(batch_of(1))
    assert slot.stages is None
    doubling.fetch(slot)
    assert slot.stages is not None
    assert min(slot.stages.copy_in_ms, slot.stages.compute_ms, slot.stages.copy_out_ms) > 0
    assert slot.stages.total_ms == slot.stages.copy_in_ms + slot.stages.compute_ms + slot.stages.copy_out_ms


def test_page_locked_memory_of_others_is_read_where_it_is() -> None:
    cuda = LazyCuda()
    doubling = Doubling(cuda)
    memory = batch_of(50)
    cuda.lock(memory.reshape(-1).view(np.uint8))
    slot = doubling.ring.acquire(len(memory))
    slot.input[:] = -1
    doubling.ring.submit(slot, len(memory), memory)
    assert_answers(doubling.fetch(slot), memory)


def test_slot_out_of_turn_is_refused() -> None:
    doubling = Doubling(LazyCuda())
    ring = doubling.ring
    slot = doubling.send(batch_of(1))
    for misuse in (lambda: ring.submit(slot, 1), lambda: ring.release(slot)):
        with pytest.raises(RingError, match="this one is submitted"):
            misuse()
    doubling.fetch(slot)
    for misuse in (lambda: ring.submit(slot, 1), lambda: ring.release(slot), lambda: ring.collect(slot)):
        with pytest.raises(RingError, match="this one is free"):
            misuse()
    larger = ring.acquire(10)
    with pytest.raises(RingError, match="not of this ring any more"):
        ring.submit(slot, 1)
    with pytest.raises(RingError, match="expected 1 to 10 rows, got 11"):
        ring.submit(larger, 11)


def test_too_little_memory_for_large_batches_leaves_room_for_small_ones() -> None:
    doubling = Doubling(LazyCuda(total=4096))
    assert_answers(doubling.fetch(doubling.send(batch_of(1))), batch_of(1))
    with pytest.raises(EngineError, match="smaller --batch"):
        doubling.ring.acquire(1000)
    assert_answers(doubling.fetch(doubling.send(batch_of(2))), batch_of(2))
    doubling.close()
    assert doubling.cuda.idle(), "what was allocated before the memory ran out was not given back"


def test_network_that_refuses_a_batch_leaves_the_slot_usable() -> None:
    doubling = Doubling(LazyCuda())
    enqueue = doubling.ring._enqueue

    def refuse(rows: int, source: int, target: int) -> None:
        raise EngineError("no")

    slot = doubling.ring.acquire(3)
    slot.input[:] = batch_of(7)
    doubling.ring._enqueue = refuse
    with pytest.raises(EngineError, match="no"):
        doubling.ring.submit(slot, 3)
    slot.input[:] = batch_of(9)
    doubling.ring._enqueue = enqueue
    doubling.ring.submit(slot, 3)
    assert_answers(doubling.fetch(slot), batch_of(9))


def test_threads_get_their_own_answers() -> None:
    """More threads than slots, batches of many sizes, and delays where a thread may lose the processor."""
    cuda = LazyCuda(np.random.default_rng(0))
    doubling = Doubling(cuda)

    def ask(number: int) -> None:
        delays = random.Random(number)
        batch = batch_of(1000 * number, 1 + number % 7)
        slot = doubling.send(batch)
        time.sleep(delays.random() / 2000)
        assert_answers(doubling.fetch(slot), batch)
        time.sleep(delays.random() / 2000)

    with ThreadPoolExecutor(8) as pool:
        for each in [pool.submit(ask, number) for number in range(300)]:
            each.result(60)
    doubling.close()
    assert cuda.idle()


def test_who_waits_for_a_slot_of_a_ring_that_is_closed_is_told_so() -> None:
    doubling = Doubling(LazyCuda(), slots=1)
    slot = doubling.send(batch_of(0))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(doubling.ring.acquire, 3)
        doubling.close()
        with pytest.raises(EngineError, match="was closed while batches were still given"):
            waiting.result(10)
    assert slot.state is State.SUBMITTED
    with pytest.raises(EngineError, match="was closed"):
        doubling.ring.acquire(1)
    assert doubling.cuda.idle()


class RingMachine(RuleBasedStateMachine):
    """The ring against a model: for each slot its state and the batch that it carries."""

    def __init__(self) -> None:
        super().__init__()
        self.cuda = LazyCuda(np.random.default_rng(0))
        self.doubling = Doubling(self.cuda)
        self.model: dict[Slot, State] = {}
        self.batches: dict[Slot, np.ndarray] = {}
        self.count = 0

    slots = Bundle("slots")

    def in_use(self) -> int:
        return sum(state is not State.FREE for state in self.model.values())

    @precondition(lambda self: self.in_use() < 3)
    @rule(target=slots)
    def acquire(self) -> Slot:
        slot = self.doubling.ring.acquire(4)
        assert self.model.get(slot, State.FREE) is State.FREE, "a slot was given to two"
        self.model[slot] = State.FILLING
        return slot

    @rule(slot=slots, rows=st.integers(1, 4))
    def submit(self, slot: Slot, rows: int) -> None:
        self.count += 1
        batch = batch_of(100 * self.count, rows)
        if self.model[slot] is State.FILLING:
            slot.input[:rows] = batch
            self.doubling.ring.submit(slot, rows)
            self.model[slot], self.batches[slot] = State.SUBMITTED, batch
        else:
            with pytest.raises(RingError, match="expected a slot that is filling"):
                self.doubling.ring.submit(slot, rows)

    @rule(slot=slots)
    def collect(self, slot: Slot) -> None:
        if self.model[slot] is State.SUBMITTED:
            assert_answers(self.doubling.ring.collect(slot), self.batches[slot])
            self.model[slot] = State.DONE
        else:
            with pytest.raises(RingError, match="expected a slot that is submitted"):
                self.doubling.ring.collect(slot)

    @rule(slot=slots)
    def release(self, slot: Slot) -> None:
        if self.model[slot] in (State.DONE, State.FILLING):
            self.doubling.ring.release(slot)
            self.model[slot] = State.FREE
        else:
            with pytest.raises(RingError, match="expected a slot that is done or filling"):
                self.doubling.ring.release(slot)

    @invariant()
    def states_agree(self) -> None:
        assert all(slot.state is state for slot, state in self.model.items())
        assert len(self.model) <= 3

    def teardown(self) -> None:
        self.doubling.close()
        assert self.cuda.idle()


TestRingMachine = RingMachine.TestCase
TestRingMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
