"""What every step and every noise must keep. The tests of a plug-in can call these checks on its own rows.

A check takes `make`, which returns the step's function anew at each call, and a value that the step accepts. It
returns nothing, or raises an `AssertionError` that says what was broken.
"""

from __future__ import annotations

import json
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.registry import step_function
from noise.base import SHARED, NoiseError, Pipeline, Setting, Step, StepFunction, step_from_json
from noise.seed import generator

Make = Callable[[], StepFunction]
Picture = npt.NDArray[np.uint8]
Settings = Mapping[str, Setting]

SEED = 7
KEY = "conformance"
LEVELS = ("1", "2", "3", "4", "5")


def outcome(function: StepFunction, value: Any, sample_id: str = "a.jpg", seed: int = SEED) -> npt.NDArray[Any]:
    """A copy of what the step makes of a value, its generator made as the harness makes it."""
    return np.array(function(value, generator(seed, KEY, sample_id)))


def check_keeps_dtype_and_shape(make: Make, picture: Picture) -> None:
    """A sensor step returns what it takes: uint8, height x width x 3."""
    result = make()(picture, generator(SEED, KEY, "a.jpg"))
    assert isinstance(result, np.ndarray), f"a picture must be an array; got {type(result).__name__}"
    assert result.dtype == picture.dtype, f"expected {picture.dtype}, got {result.dtype}"
    assert result.shape == picture.shape, f"expected {picture.shape}, got {result.shape}"


def check_leaves_input_alone(make: Make, value: Any) -> None:
    """The same decoded picture feeds several conditions, so no step may write into it."""
    before = np.array(value)
    make()(value, generator(SEED, KEY, "a.jpg"))
    assert np.array_equal(before, np.array(value)), "the step modified its input"


def check_repeats(make: Make, value: Any) -> None:
    """The same generator gives the same bytes, from the same function and from a new one."""
    function = make()
    first = outcome(function, value)
    assert np.array_equal(first, outcome(function, value)), "a second call gave another result"
    assert np.array_equal(first, outcome(make(), value)), "a new function of the same step gave another result"


def check_leaves_global_generator_alone(make: Make, value: Any) -> None:
    """All randomness comes from the argument; NumPy's global generator is neither used nor seeded."""
    before = repr(np.random.get_state())  # noqa: NPY002 - the legacy state is what is guarded
    make()(value, generator(SEED, KEY, "a.jpg"))
    assert repr(np.random.get_state()) == before, "the step touched NumPy's global generator"  # noqa: NPY002


def check_ignores_earlier_calls(make: Make, values: Sequence[Any]) -> None:
    """Forwards and backwards through the samples, every sample gets the same result."""
    forwards, backwards = make(), make()
    numbered = list(enumerate(values))
    first = {index: outcome(forwards, value, f"{index}.jpg") for index, value in numbered}
    last = {index: outcome(backwards, value, f"{index}.jpg") for index, value in reversed(numbered)}
    for index, result in first.items():
        assert np.array_equal(result, last[index]), f"the result of sample {index} depends on earlier calls"


def draws(make: Make, value: Any) -> bool:
    """Whether the step takes anything from its generator."""
    rng = generator(SEED, KEY, "a.jpg")
    before = repr(rng.bit_generator.state)
    make()(value, rng)
    return repr(rng.bit_generator.state) != before


def check_differs_between_samples(make: Make, value: Any) -> None:
    """A random step gives every sample and every seed noise of its own; any other step ignores both."""
    first = outcome(make(), value)
    other_sample = np.array_equal(first, outcome(make(), value, sample_id="b.jpg"))
    other_seed = np.array_equal(first, outcome(make(), value, seed=SEED + 1))
    if draws(make, value):
        assert not other_sample, "two samples got the same noise"
        assert not other_seed, "two seeds gave the same noise"
    else:
        assert other_sample, "the result depends on the sample although the step draws nothing"
        assert other_seed, "the result depends on the seed although the step draws nothing"


def check_survives_json(step: Step, value: Any) -> None:
    """A step that was stored in a run and read back is the same step."""
    read = step_from_json(json.loads(json.dumps(step.describe())))
    assert read.key == step.key, f"the key changed from {step.key} to {read.key}"
    original, again = outcome(step_function(step), value), outcome(step_function(read), value)
    assert np.array_equal(original, again), "the step that was read back makes another picture"


def check_five_severities(settings: Settings) -> None:
    """A corruption has the severities 1 to 5 in this order, and all five differ."""
    assert tuple(settings) == LEVELS, f"expected the severities {LEVELS}, got {tuple(settings)}"
    keys = {step.key for step in settings.values() if isinstance(step, Step)}
    assert len(keys) == len(LEVELS), "two severities are the same step"


def check_grows(settings: Settings, picture: Picture) -> None:
    """The mean absolute distance from the clean picture grows from each severity to the next."""
    distances = [
        float(np.abs(outcome(step_function(step), picture).astype(int) - picture).mean())
        for step in settings.values()
        if isinstance(step, Step)
    ]
    assert all(mild < strong for mild, strong in pairwise(distances)), f"the distances do not grow: {distances}"
    assert distances[0] > 0, "the mildest severity changes nothing"


def check_inserts_behind(pipeline: Pipeline, step: Step, stage: str) -> None:
    """A step that is added stands behind another stage and leaves all others in place."""
    changed = pipeline.with_step(step).steps
    assert tuple(s for s in changed if s is not step) == pipeline.steps, "the step changed another one"
    before = changed[changed.index(step) - 1]
    assert before.stage == stage, f"the step stands behind {before.row}"


def check_swaps_one_step(pipeline: Pipeline, step: Step) -> None:
    """A swap replaces the step of its stage, keeps all others, and keeps the parameters that it does not name."""
    changed = pipeline.with_step(step).steps
    assert len(changed) == len(pipeline.steps), "the swap changed the number of steps"
    for old, new in zip(pipeline.steps, changed, strict=True):
        if old.stage != step.stage:
            assert new == old, f"the swap changed {old.row} too"
        else:
            assert new.row == step.row, f"expected {step.row}, got {new.row}"
            kept = old.params if old.name == step.name else [*SHARED.get(step.stage, ())]
            expected = {**{name: old.params[name] for name in kept if name in old.params}, **step.params}
            assert dict(new.params) == expected, "the swap lost a parameter, or kept a foreign one"


def check_keeps_shape_of_input(pipeline: Pipeline, step: Step, data: bytes) -> None:
    """With the step the model is fed an array of the same shape and type."""
    clean, changed = run_pipeline(pipeline, data), run_pipeline(pipeline.with_step(step), data)
    assert changed.shape == clean.shape, f"expected {clean.shape}, got {changed.shape}"
    assert changed.dtype == clean.dtype, f"expected {clean.dtype}, got {changed.dtype}"


def check_makes_rgb(make: Make, data: bytes, size: tuple[int, int]) -> None:
    """A decoder returns uint8, height x width x 3, contiguous, that nobody else can change."""
    picture = make()(data, generator(SEED, KEY, "a.jpg"))
    assert isinstance(picture, np.ndarray), f"a picture must be an array; got {type(picture).__name__}"
    assert picture.dtype == np.uint8, f"expected uint8, got {picture.dtype}"
    assert picture.shape == (*size, 3), f"expected {(*size, 3)}, got {picture.shape}"
    assert picture.flags.c_contiguous, "the rows of the picture do not follow each other in memory"


def check_refuses(make: Make, data: bytes) -> None:
    """A decoder says in a `NoiseError` that it makes nothing of the bytes, and allocates nothing for a claimed size."""
    tracemalloc.start()
    try:
        make()(data, generator(SEED, KEY, "a.jpg"))
    except NoiseError:
        peak = tracemalloc.get_traced_memory()[1]
        assert peak < 10_000_000, f"refusing took {peak:,} bytes"
        return
    finally:
        tracemalloc.stop()
    raise AssertionError("the decoder made a picture of it")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of_size(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims a size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


NO_PICTURES = {
    "empty": b"",
    "text": b"not an image",
    "JPEG's first bytes": b"\xff\xd8\xff\xe0",
    "decompression bomb": png_of_size(100_000, 100_000),
}


def run_pipeline(pipeline: Pipeline, data: bytes) -> npt.NDArray[Any]:
    """What an engine would be fed for one encoded picture."""
    value: Any = data
    for step in pipeline.steps:
        value = step_function(step)(value, generator(SEED, step.key, "a.jpg"))
    return np.array(value)
