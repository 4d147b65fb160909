"""Every row of `engines.ENGINES` passes every conformance check; a new row is tested by being there."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest

from engines import ENGINES
from engines.artifact import Artifact
from engines.base import Engine, EngineError, EngineOptions, EngineUnavailable, OpenEngine
from harness.registry import engine_certifier, engine_opener
from tests.engines import conformance
from tests.engines.litert.files import tiny_tflite
from tests.engines.tiny import CLASSES, Shape, pictures, reference, tiny_artifact, write_tiny

BATCH = pictures(3, seed=1)
OTHER = pictures(3, seed=2)
OPTIONS = {
    "integer": EngineOptions(),
    "simulated": EngineOptions(integer_kernels=False),
    "two-threads": EngineOptions(threads=2),
}

# Emulation takes seconds to start. The options are ONNX Runtime's and tried on ort-cpu; the other two processors
# share the code of ort-haswell, and test_emulated.py opens them.
ALIKE = {"ort-sandybridge", "ort-nehalem"}
# Emulation is slow, and TensorRT cannot be given threads.
AS_BUILT = {"ort-haswell", "ort-tensorrt", "tensorrt"}
NAMES = [name for name in ENGINES if name not in ALIKE]
CASES = [
    pytest.param(name, options, id=f"{name}-{what}")
    for name in NAMES
    for what, options in OPTIONS.items()
    if what == "integer" or (name not in AS_BUILT and (what != "simulated" or ENGINES[name].simulates))
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "options" in metafunc.fixturenames:
        metafunc.parametrize(("engine", "options"), CASES)
    elif "engine" in metafunc.fixturenames:
        metafunc.parametrize("engine", NAMES)


@pytest.fixture(scope="session")
def openers(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], OpenEngine]:
    """Engine -> the function that opens it, tried once."""

    @cache
    def tried(engine: str) -> OpenEngine:
        found = engine_opener(engine)
        found(artifact_for(engine, tmp_path_factory.mktemp("tried")), EngineOptions()).close()
        return found

    return tried


@pytest.fixture
def opener(engine: str, openers: Callable[[str], OpenEngine]) -> OpenEngine:
    """The function that opens the engine, or a skip with the reason why it cannot exist here."""
    try:
        return openers(engine)
    except EngineUnavailable as error:
        pytest.skip(str(error))


def artifact_for(engine: str, folder: Path, shape: Shape = Shape()) -> Artifact:  # noqa: B008
    """The tiny network in a format that the engine runs."""
    return tiny_artifact(folder, shape) if "onnx" in ENGINES[engine].formats else tiny_tflite(folder, shape)


@pytest.fixture
def artifact(engine: str, opener: OpenEngine, tmp_path: Path) -> Artifact:
    del opener  # where the engine cannot exist, its files may not be read either
    return artifact_for(engine, tmp_path)


@pytest.fixture
def wanted(tmp_path: Path) -> conformance.Array:
    """What the tiny network answers to `BATCH`, by ONNX's own evaluator."""
    return reference(write_tiny(tmp_path, name="reference.onnx"), {"x": BATCH})


@pytest.fixture
def opened(opener: OpenEngine, artifact: Artifact, options: EngineOptions) -> partial[Engine]:
    return partial(opener, artifact, options)


def test_engine_declares_the_artifact(opened: partial[Engine], artifact: Artifact) -> None:
    conformance.check_declares_the_artifact(opened, artifact)


def test_engine_refuses_wrong_feeds(opened: partial[Engine]) -> None:
    conformance.check_refuses_wrong_feeds(opened, BATCH)


def test_engine_gives_finite_scores(opened: partial[Engine]) -> None:
    conformance.check_outputs_are_finite(opened, BATCH)


def test_engine_repeats_itself(opened: partial[Engine]) -> None:
    conformance.check_repeats(opened, BATCH)


def test_engine_ignores_earlier_batches(opened: partial[Engine]) -> None:
    conformance.check_ignores_earlier_batches(opened, BATCH, OTHER)


def test_engine_gives_a_picture_alone_the_scores_that_it_has_in_a_batch(opened: partial[Engine]) -> None:
    conformance.check_rows_do_not_depend_on_the_batch(opened, BATCH)


def test_engine_leaves_its_outputs_to_the_caller(opened: partial[Engine]) -> None:
    conformance.check_caller_owns_outputs(opened, BATCH, OTHER)


def test_engine_closes_twice_and_does_not_run_afterwards(opened: partial[Engine]) -> None:
    conformance.check_closes(opened, BATCH)


def test_engine_has_facts_that_agree_with_the_request(opened: partial[Engine], options: EngineOptions) -> None:
    conformance.check_facts(opened, options)


@pytest.mark.parametrize(
    "unusual",
    [
        EngineOptions(optimisation="disabled"),
        EngineOptions(optimisation="basic"),
        EngineOptions(optimisation="extended"),
        EngineOptions(arena=False),
        EngineOptions(cuda_graph=True),
        EngineOptions(integer_kernels=False, optimisation="disabled"),
    ],
    ids=str,
)
def test_engine_follows_an_option_or_refuses_it(
    opener: OpenEngine, artifact: Artifact, unusual: EngineOptions, wanted: conformance.Array
) -> None:
    conformance.check_follows_or_refuses(partial(opener, artifact, unusual), unusual, BATCH, wanted)


def test_reentrant_engine_gives_four_threads_what_it_gives_one(opened: partial[Engine]) -> None:
    conformance.check_threads(opened, [pictures(2, seed=seed) for seed in range(8)])


def test_engine_matches_the_reference(opened: partial[Engine], wanted: conformance.Array) -> None:
    conformance.check_matches_reference(opened, BATCH, wanted)


def test_engine_matches_the_reference_on_channels_last(
    engine: str, opener: OpenEngine, tmp_path: Path, wanted: conformance.Array
) -> None:
    artifact = artifact_for(engine, tmp_path, Shape(nhwc=True))
    batch = np.ascontiguousarray(BATCH.transpose(0, 2, 3, 1))
    conformance.check_matches_reference(partial(opener, artifact, EngineOptions()), batch, wanted)


def test_engine_of_a_fixed_batch_runs_that_batch_alone(engine: str, opener: OpenEngine, tmp_path: Path) -> None:
    artifact = artifact_for(engine, tmp_path, Shape(batch=2))
    with conformance.engine_of(partial(opener, artifact, EngineOptions())) as running:
        assert conformance.answer(running, BATCH[:2]).shape == (2, CLASSES)
        with pytest.raises(EngineError, match=r"expected float32 \[2, 3, 32, 32\], got float32 \[3, 3, 32, 32\]"):
            conformance.answer(running, BATCH)


def test_closed_engine_has_no_facts(opened: partial[Engine]) -> None:
    engine = opened()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.facts()


def test_file_that_the_runtime_cannot_open_is_an_engine_error(opener: OpenEngine, artifact: Artifact) -> None:
    known, unknown = {"onnx": (b"GlobalAveragePool", b"GlobalAveragePond"), "tflite": (b"TFL3", b"TFL9")}[
        artifact.format
    ]
    artifact.path.write_bytes(artifact.path.read_bytes().replace(known, unknown))
    with pytest.raises(EngineError, match=rf"cannot open .*tiny\.{artifact.format}"):
        opener(artifact, EngineOptions())


@pytest.mark.parametrize("name", ENGINES)
def test_every_row_says_what_it_is_and_proves_what_ran(name: str) -> None:
    assert ENGINES[name].about
    try:
        assert callable(engine_certifier(name))
    except EngineUnavailable as error:
        pytest.skip(str(error))
