"""The conformance checks catch what they are for: each broken engine below fails the check that is meant for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.artifact import Artifact, TensorSpec
from engines.base import EngineError, EngineOptions
from tests.engines import conformance
from tests.engines.conformance import Array

CLASSES = 10
PIXELS = 3 * 8 * 8
WEIGHTS = np.random.default_rng(0).normal(0, 1, (PIXELS, CLASSES))
DRAW = np.random.default_rng(1)
BATCH, OTHER = (DRAW.normal(0, 1, (3, 3, 8, 8)).astype(np.float32) for _ in range(2))
INPUT = TensorSpec("x", "float32", (None, 3, 8, 8))
OUTPUT = TensorSpec("y", "float32", (None, CLASSES))


class Sound:
    """A linear classifier in NumPy that keeps every promise."""

    def __init__(self) -> None:
        self.inputs: tuple[TensorSpec, ...] = (INPUT,)
        self.outputs: tuple[TensorSpec, ...] = (OUTPUT,)
        self.reentrant = True
        self.closed = False

    def scores(self, batch: Array) -> Array:
        rows = [picture.reshape(PIXELS).astype(np.float64) @ WEIGHTS for picture in batch]
        return np.array(rows).astype(np.float32)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        if self.closed:
            raise EngineError("closed")
        return {"y": self.scores(feeds["x"])}

    def facts(self) -> dict[str, Any]:
        return {
            "runtime": "numpy",
            "provider": "python",
            "device": "any",
            "kernel_class": "none",
            "integer_kernels": True,
            "threads": 1,
            "optimisation": "all",
            "arena": True,
        }

    def close(self) -> None:
        self.closed = True


class ReusesItsBuffer(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.buffer = np.zeros((16, CLASSES), np.float32)

    def scores(self, batch: Array) -> Array:
        self.buffer[: len(batch)] = super().scores(batch)
        return self.buffer[: len(batch)]


class ReversesRows(Sound):
    def scores(self, batch: Array) -> Array:
        return np.ascontiguousarray(super().scores(batch)[::-1])


class CastsToHalf(Sound):
    def scores(self, batch: Array) -> Array:
        return super().scores(batch).astype(np.float16).astype(np.float32)


class AnswersThePreviousBatch(Sound):
    """A pipeline of depth two whose caller takes the wrong end."""

    def __init__(self) -> None:
        super().__init__()
        self.last: Array | None = None

    def scores(self, batch: Array) -> Array:
        now = super().scores(batch)
        stale = now if self.last is None or len(self.last) != len(now) else self.last
        self.last = now
        return stale.copy()


class LeavesOldRows(Sound):
    """The last row of a batch that is smaller than the one before is left from that one."""

    def __init__(self) -> None:
        super().__init__()
        self.last: Array = np.zeros((0, CLASSES), np.float32)

    def scores(self, batch: Array) -> Array:
        now = super().scores(batch)
        result = now.copy()
        if len(now) < len(self.last):
            result[-1] = self.last[len(now) - 1]
        self.last = now
        return result


class AnswersNaN(Sound):
    def scores(self, batch: Array) -> Array:
        result = super().scores(batch)
        result[0, 0] = np.nan
        return result


class MixesRows(Sound):
    """Normalises over the batch, as a batch norm left in training mode does."""

    def scores(self, batch: Array) -> Array:
        scores = super().scores(batch)
        return np.asarray(scores - scores.mean(axis=0))


class RunsWhenClosed(Sound):
    def close(self) -> None: ...


class ClosesOnce(Sound):
    def close(self) -> None:
        if self.closed:
            raise EngineError("closed already")
        super().close()


class IgnoresRequest(Sound):
    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "integer_kernels": False}


class HasFactsThatAreNoJson(Sound):
    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "device": Path("somewhere")}


class WrongInput(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.inputs = (TensorSpec("x", "float32", (None, None, None, None)),)

    def scores(self, batch: Array) -> Array:
        return np.zeros((len(batch), CLASSES), np.float32)


class SharesStateBetweenThreads(Sound):
    """Every run waits for another thread's run and answers that one's batch."""

    def __init__(self) -> None:
        super().__init__()
        self.barrier = threading.Barrier(2)
        self.current: Array = BATCH

    def scores(self, batch: Array) -> Array:
        if threading.current_thread() is threading.main_thread():
            return super().scores(batch)
        self.current = batch
        self.barrier.wait(10)
        result = super().scores(self.current)
        self.barrier.wait(10)
        return result


def test_sound_engine_passes_every_check() -> None:
    artifact = Artifact(Path("x.onnx"), "onnx", "", INPUT, OUTPUT, "logits", quantised=False)
    conformance.check_declares_the_artifact(Sound, artifact)
    conformance.check_refuses_wrong_feeds(Sound, BATCH)
    conformance.check_outputs_are_finite(Sound, BATCH)
    conformance.check_repeats(Sound, BATCH)
    conformance.check_ignores_earlier_batches(Sound, BATCH, OTHER)
    conformance.check_rows_do_not_depend_on_the_batch(Sound, BATCH)
    conformance.check_caller_owns_outputs(Sound, BATCH, OTHER)
    conformance.check_closes(Sound, BATCH)
    conformance.check_facts(Sound, EngineOptions())
    conformance.check_threads(Sound, [BATCH, OTHER])
    conformance.check_matches_reference(Sound, BATCH, Sound().scores(BATCH))


def test_reused_buffer_is_caught() -> None:
    with pytest.raises(AssertionError, match="a later run changed an earlier answer"):
        conformance.check_caller_owns_outputs(ReusesItsBuffer, BATCH, OTHER)


def test_wrong_order_of_rows_is_caught() -> None:
    with pytest.raises(AssertionError, match="a batch against its pictures one by one"):
        conformance.check_rows_do_not_depend_on_the_batch(ReversesRows, BATCH)
    with pytest.raises(AssertionError, match="against the reference"):
        conformance.check_matches_reference(ReversesRows, BATCH, Sound().scores(BATCH))


def test_silent_half_precision_is_caught() -> None:
    with pytest.raises(AssertionError, match="against the reference"):
        conformance.check_matches_reference(CastsToHalf, BATCH, Sound().scores(BATCH))


@pytest.mark.parametrize("broken", [AnswersThePreviousBatch, LeavesOldRows])
def test_stale_batch_is_caught(broken: Callable[[], Sound]) -> None:
    with pytest.raises(AssertionError, match="the scores are others"):
        conformance.check_ignores_earlier_batches(broken, BATCH, OTHER)


def test_not_a_number_is_caught() -> None:
    with pytest.raises(AssertionError, match="not finite"):
        conformance.check_outputs_are_finite(AnswersNaN, BATCH)
    with pytest.raises(AssertionError, match="the scores differ by nan"):
        conformance.check_matches_reference(AnswersNaN, BATCH, Sound().scores(BATCH))


def test_rows_that_see_each_other_are_caught() -> None:
    with pytest.raises(AssertionError, match="a batch against its pictures one by one"):
        conformance.check_rows_do_not_depend_on_the_batch(MixesRows, BATCH)


def test_engine_that_runs_when_closed_is_caught() -> None:
    with pytest.raises(AssertionError, match="a closed engine ran"):
        conformance.check_closes(RunsWhenClosed, BATCH)


def test_engine_that_cannot_be_closed_twice_is_caught() -> None:
    with pytest.raises(EngineError, match="closed already"):
        conformance.check_closes(ClosesOnce, BATCH)


def test_facts_that_deny_the_request_are_caught() -> None:
    with pytest.raises(AssertionError, match="asked for integer_kernels = True, the facts say False"):
        conformance.check_facts(IgnoresRequest, EngineOptions())


def test_options_that_are_ignored_are_caught() -> None:
    wanted = conformance.answer(Sound(), BATCH)
    with pytest.raises(AssertionError, match="asked for optimisation = basic, the facts say"):
        conformance.check_follows_or_refuses(Sound, EngineOptions(optimisation="basic"), BATCH, wanted)
    with pytest.raises(AssertionError, match="asked for arena = False, the facts say"):
        conformance.check_follows_or_refuses(Sound, EngineOptions(arena=False), BATCH, wanted)


def test_facts_that_are_no_json_are_caught() -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        conformance.check_facts(HasFactsThatAreNoJson, EngineOptions())


def test_engine_that_accepts_everything_is_caught() -> None:
    with pytest.raises(AssertionError, match="the engine accepted one row less"):
        conformance.check_refuses_wrong_feeds(WrongInput, BATCH)


def test_threads_that_disturb_each_other_are_caught() -> None:
    with pytest.raises(AssertionError, match="another thread's run changed the scores"):
        conformance.check_threads(SharesStateBetweenThreads, [BATCH, OTHER])


def test_cuda_graph_that_is_ignored_is_caught() -> None:
    class SaysSo(Sound):
        def facts(self) -> dict[str, Any]:
            return {**super().facts(), "optimisation": "all", "arena": True}

    wanted = conformance.answer(Sound(), BATCH)
    with pytest.raises(AssertionError, match="asked for cuda_graph = True, the facts say False"):
        conformance.check_follows_or_refuses(SaysSo, EngineOptions(cuda_graph=True), BATCH, wanted)
