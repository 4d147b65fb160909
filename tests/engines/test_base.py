"""The one door to an engine: what goes in and what comes out is checked, and the time between is taken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from engines.artifact import TensorSpec
from engines.base import EngineError, EngineOptions, EngineUnavailable, call

Array = npt.NDArray[Any]

PICTURES = np.zeros((2, 3, 4, 4), np.float32)
SCORES = np.zeros((2, 5), np.float32)


class Answers:
    """An engine that answers what it was given, and counts."""

    inputs: tuple[TensorSpec, ...] = (TensorSpec("x", "float32", (None, 3, 4, 4)),)
    outputs: tuple[TensorSpec, ...] = (TensorSpec("y", "float32", (None, 5)),)
    reentrant = True

    def __init__(self, outputs: dict[str, Array]) -> None:
        self.answer, self.runs = outputs, 0

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        del feeds
        self.runs += 1
        return self.answer

    def facts(self) -> dict[str, Any]:
        return {}

    def close(self) -> None: ...


def test_call_returns_the_outputs_and_a_duration() -> None:
    timed = call(Answers({"y": SCORES}), {"x": PICTURES})
    assert timed.outputs["y"] is SCORES
    assert 0 < timed.wall_ns < 1_000_000_000


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, r"expected inputs \['x'\], got \[\]"),
        ({"z": PICTURES}, r"expected inputs \['x'\], got \['z'\]"),
        ({"x": PICTURES, "z": PICTURES}, r"expected inputs \['x'\], got \['x', 'z'\]"),
        ({"x": PICTURES.astype(np.float64)}, r"input 'x': expected float32 \[N, 3, 4, 4\], got float64 \[2, 3, 4, 4\]"),
        ({"x": PICTURES[0]}, r"input 'x': expected float32 \[N, 3, 4, 4\], got float32 \[3, 4, 4\]"),
        ({"x": PICTURES[:, :2]}, r"got float32 \[2, 2, 4, 4\]"),
    ],
    ids=["none", "name", "too many", "dtype", "rank", "shape"],
)
def test_wrong_feed_is_refused_before_the_engine_runs(feeds: dict[str, Array], message: str) -> None:
    engine = Answers({"y": SCORES})
    with pytest.raises(EngineError, match=message):
        call(engine, feeds)
    assert engine.runs == 0


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({}, r"expected outputs \['y'\], got \[\]"),
        ({"z": SCORES}, r"expected outputs \['y'\], got \['z'\]"),
        ({"y": SCORES.astype(np.float16)}, r"output 'y': expected float32 \[N, 5\], got float16 \[2, 5\]"),
        ({"y": SCORES[:, :4]}, r"output 'y': expected float32 \[N, 5\], got float32 \[2, 4\]"),
        ({"y": SCORES[0]}, r"got float32 \[5\]"),
    ],
    ids=["none", "name", "dtype", "shape", "rank"],
)
def test_wrong_answer_is_refused_after_the_run(outputs: dict[str, Array], message: str) -> None:
    engine = Answers(outputs)
    with pytest.raises(EngineError, match=message):
        call(engine, {"x": PICTURES})
    assert engine.runs == 1


def test_options_describe_what_changes_results_and_nothing_else() -> None:
    assert EngineOptions(threads=1).describe() == EngineOptions(threads=8).describe()
    assert EngineOptions(integer_kernels=False).describe() != EngineOptions().describe()


def test_missing_engine_is_an_engine_error() -> None:
    assert issubclass(EngineUnavailable, EngineError)
