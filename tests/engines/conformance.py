"""What every engine must keep. The tests of a plug-in can call these checks on its own engine.

A check takes `opened`, which opens the engine anew at each call, and feeds for it. It returns nothing, or raises
an `AssertionError` that says what was broken. Every check closes what it opened.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.artifact import Artifact
from engines.base import Engine, EngineError, EngineOptions, call

Array = npt.NDArray[Any]
Opened = Callable[[], Engine]


@contextlib.contextmanager
def engine_of(opened: Opened) -> Iterator[Engine]:
    """An engine that is closed behind the check."""
    engine = opened()
    try:
        yield engine
    finally:
        engine.close()


def answer(engine: Engine, batch: Array) -> Array:
    """The rows of class scores for one batch, through the door that the harness uses. They are not copied."""
    outputs = call(engine, {engine.inputs[0].name: batch}).outputs
    return outputs[engine.outputs[0].name]


def assert_close(got: Array, wanted: Array, what: str) -> None:
    """Equal up to the order of float sums: a ten-thousandth of the largest score. float16 is worse than that."""
    assert got.shape == wanted.shape, f"{what}: expected {wanted.shape}, got {got.shape}"
    distance = float(np.abs(got - wanted).max())
    limit = 1e-4 * float(np.abs(wanted).max())
    assert distance <= limit, f"{what}: the scores differ by {distance:.3g}, more than {limit:.3g}"


def check_declares_the_artifact(opened: Opened, artifact: Artifact) -> None:
    """The engine wants what the artifact says and returns what the artifact says."""
    with engine_of(opened) as engine:
        assert tuple(engine.inputs) == (artifact.input,), f"expected {artifact.input}, got {engine.inputs}"
        assert tuple(engine.outputs) == (artifact.output,), f"expected {artifact.output}, got {engine.outputs}"


def check_refuses_wrong_feeds(opened: Opened, batch: Array) -> None:
    """A wrong name, number, dtype or shape is an `EngineError`, and the engine works afterwards."""
    with engine_of(opened) as engine:
        name = engine.inputs[0].name
        wrong = {
            "no feed": {},
            "another name": {name + "_": batch},
            "a feed too many": {name: batch, name + "_": batch},
            "float64": {name: batch.astype(np.float64)},
            "float16": {name: batch.astype(np.float16)},
            "no batch axis": {name: batch[0]},
            "one row less": {name: batch[..., :-1, :]},
            "one plane more": {name: np.concatenate([batch, batch], axis=1)},
        }
        for what, feeds in wrong.items():
            try:
                call(engine, feeds)
            except EngineError:
                continue
            raise AssertionError(f"the engine accepted {what}")
        answer(engine, batch)


def check_outputs_are_finite(opened: Opened, batch: Array) -> None:
    """Finite pictures give finite scores."""
    with engine_of(opened) as engine:
        assert np.isfinite(answer(engine, batch)).all(), "the scores are not finite"


def check_repeats(opened: Opened, batch: Array) -> None:
    """The same batch gives the same bits, from this engine and from a new one."""
    with engine_of(opened) as engine, engine_of(opened) as other:
        first = answer(engine, batch).copy()
        assert np.array_equal(first, answer(engine, batch)), "a second run gave other scores"
        assert np.array_equal(first, answer(other, batch)), "another engine of the same file gave other scores"


def check_ignores_earlier_batches(opened: Opened, batch: Array, other: Array) -> None:
    """What ran before, more pictures or fewer, changes nothing."""
    with engine_of(opened) as engine, engine_of(opened) as fresh:
        for before in (other, other[:1], np.concatenate([other, other])):
            answer(engine, before)
            got, wanted = answer(engine, batch).copy(), answer(fresh, batch)
            assert np.array_equal(got, wanted), f"after a batch of {len(before)}, the scores are others"


def check_rows_do_not_depend_on_the_batch(opened: Opened, batch: Array) -> None:
    """A picture alone gets the scores that it gets among others, in its own row."""
    with engine_of(opened) as engine:
        together = answer(engine, batch).copy()
        alone = np.concatenate([answer(engine, batch[row : row + 1]).copy() for row in range(len(batch))])
    assert_close(together, alone, "a batch against its pictures one by one")


def check_caller_owns_outputs(opened: Opened, batch: Array, other: Array) -> None:
    """A later run does not change an earlier answer, and neither does closing."""
    with engine_of(opened) as engine:
        kept = answer(engine, batch)
        before = kept.copy()
        answer(engine, other)
        assert np.array_equal(kept, before), "a later run changed an earlier answer"
        kept[...] = 0.0  # raises where the engine gave away something that must not be written
        assert np.array_equal(answer(engine, batch), before), "writing into an answer changed the engine"


def check_closes(opened: Opened, batch: Array) -> None:
    """Closing twice is allowed; running afterwards is an `EngineError`."""
    engine = opened()
    answer(engine, batch)
    engine.close()
    engine.close()
    try:
        answer(engine, batch)
    except EngineError:
        return
    raise AssertionError("a closed engine ran")


def check_facts(opened: Opened, options: EngineOptions) -> None:
    """The facts agree with the request, name what runs, survive JSON, and stay the same over calls."""
    with engine_of(opened) as engine:
        facts = engine.facts()
        assert json.loads(json.dumps(facts)) == facts, "the facts are no JSON"
        assert facts == engine.facts(), "the facts change from call to call"
    for name in ("runtime", "provider", "device", "kernel_class"):
        assert facts.get(name), f"the facts do not say the {name}"
    asked = {"integer_kernels": options.integer_kernels, "threads": options.threads}
    for name, wanted in asked.items():
        assert facts.get(name) == wanted, f"asked for {name} = {wanted}, the facts say {facts.get(name)}"


def check_follows_or_refuses(opened: Opened, options: EngineOptions, batch: Array, wanted: Array) -> None:
    """An unusual option is followed, and the facts say so, or it is refused by name; it is never ignored."""
    refusal = ""
    try:
        opened().close()
    except EngineError as error:
        refusal = str(error)
    if refusal:
        assert "has no option" in refusal, f"refused without naming the option: {refusal}"
        return
    with engine_of(opened) as engine:
        facts = {"cuda_graph": False, **engine.facts()}
        for name in ("optimisation", "arena", "cuda_graph"):
            asked = getattr(options, name)
            assert facts.get(name) == asked, f"asked for {name} = {asked}, the facts say {facts.get(name)}"
    check_matches_reference(opened, batch, wanted)


def check_threads(opened: Opened, batches: list[Array]) -> None:
    """A reentrant engine gives four threads what it gives one."""
    with engine_of(opened) as engine:
        if not engine.reentrant:
            return
        alone = [answer(engine, batch).copy() for batch in batches]
        with ThreadPoolExecutor(4) as pool:
            for _ in range(5):
                together = list(pool.map(lambda batch: answer(engine, batch).copy(), batches))
                for wanted, got in zip(alone, together, strict=True):
                    assert np.array_equal(got, wanted), "another thread's run changed the scores"


def check_matches_reference(opened: Opened, batch: Array, wanted: Array) -> None:
    """The scores of the float model are those of an independent evaluator."""
    with engine_of(opened) as engine:
        assert_close(answer(engine, batch), wanted, "against the reference")
