"""Every row of `engines.cuda.TRANSFERS` passes every check, and so does the double; broken doubles are caught."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from engines.cuda.device import Device
from engines.cuda.transfers import Bytes, Transfers
from tests.engines.cuda import conformance
from tests.engines.cuda.lazy import LazyCuda, LazyEvent, LazyStream

Check = Callable[[Transfers], None]


@pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_double_keeps_what_back_ends_keep(check: Check, seed: int | None) -> None:
    cuda = LazyCuda(None if seed is None else np.random.default_rng(seed))
    check(cuda)
    assert cuda.idle(), "something was not given back"


class ForgetsWaits(LazyCuda):
    def wait(self, stream: LazyStream, event: LazyEvent) -> None: ...


class ReturnsTooEarly(LazyCuda):
    def synchronise(self, event: LazyEvent) -> None: ...


class CopiesTooLittle(LazyCuda):
    def copy_within(self, target: int, source: int, size: int, stream: LazyStream) -> None:
        super().copy_within(target, source, size - 1, stream)


class CopiesTooMuch(LazyCuda):
    def copy_out(self, target: Bytes, source: int, stream: LazyStream) -> None:
        super().copy_out(target, source, stream)
        if target.base is not None and len(target) < len(target.base):
            self.give(stream, lambda: target.base[len(target) :].fill(1))


class LocksTwice(LazyCuda):
    def lock(self, memory: Bytes) -> None:
        self.locked[int(memory.__array_interface__["data"][0])] = memory.nbytes


class HasOneStream(LazyCuda):
    def handle(self, stream: LazyStream) -> int:
        return 0


class GoesBackInTime(LazyCuda):
    def elapsed_ms(self, start: LazyEvent, end: LazyEvent) -> float:
        return -super().elapsed_ms(start, end)


class GrantsEverything(LazyCuda):
    def allocate(self, size: int) -> int:
        self.total += size
        return super().allocate(size)


class KeepsMemory(LazyCuda):
    def free(self, pointer: int) -> None: ...


class HasNoName(LazyCuda):
    def device(self) -> Device:
        return Device("", "9.0", "13.0", None)


class CapturesNothing(LazyCuda):
    def capture(self, stream: LazyStream, enqueue: Callable[[], None]) -> list[Callable[[], None]]:
        enqueue()
        return []


BROKEN: list[tuple[type[LazyCuda], Any, str]] = [
    (ForgetsWaits, conformance.check_streams_wait_for_events, "did not wait for an event"),
    (ForgetsWaits, conformance.check_events_count_from_their_last_record, "forgot what it was recorded for"),
    (ForgetsWaits, conformance.check_threads, "did not wait for an event"),
    (ReturnsTooEarly, conformance.check_bytes_come_back, "came back changed"),
    (CopiesTooLittle, conformance.check_bytes_come_back, "came back changed"),
    (CopiesTooMuch, conformance.check_bytes_come_back, "more than 1 bytes came back"),
    (LocksTwice, conformance.check_memory_is_locked_and_unlocked, "locked twice"),
    (HasOneStream, conformance.check_streams_are_none_of_the_default_ones, r"handles are \(0, 0\)"),
    (GoesBackInTime, conformance.check_time_goes_forward, "ms passed"),
    (GrantsEverything, conformance.check_out_of_memory_is_said, "was granted"),
    (HasNoName, conformance.check_device_is_described, "something is missing"),
    (CapturesNothing, conformance.check_graph_runs_when_it_is_launched, "ran before it was launched"),
]


@pytest.mark.parametrize(("broken", "check", "said"), BROKEN, ids=lambda each: getattr(each, "__name__", ""))
def test_broken_double_is_caught(broken: type[LazyCuda], check: Check, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        check(broken())


def test_memory_that_is_not_given_back_is_caught() -> None:
    with pytest.raises(Exception, match="smaller --batch"):
        conformance.check_memory_is_given_back(KeepsMemory())


def test_every_check_is_tried_on_a_broken_double() -> None:
    tried = {check for _, check, _ in BROKEN} | {conformance.check_memory_is_given_back}
    assert tried == set(conformance.CHECKS)
