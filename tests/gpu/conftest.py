"""What needs a GPU: skipped with the reason where there is none, failing where ``--require`` names what is missing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from engines import ENGINES
from engines.artifact import Artifact, sidecar_path
from engines.base import EngineUnavailable, OpenEngine
from engines.cuda import TRANSFERS
from engines.cuda.transfers import Transfers, transfers_named
from harness.demo.embedded import demo_recipe
from harness.plan import plan
from harness.prepare import prepare
from harness.progress import Progress
from harness.recipe import Recipe
from harness.registry import engine_opener
from tests.conftest import missing

# Row of `engines.cuda.TRANSFERS`, or of `engines.ENGINES` -> what ``--require`` calls it.
REQUIREMENT = {
    "cuda-bindings": "cuda",
    "pycuda": "pycuda",
    "ort-cuda": "ort-gpu",
    "ort-tensorrt": "ort-gpu",
    "tensorrt": "tensorrt",
}


@pytest.fixture(params=TRANSFERS)
def transfers(request: pytest.FixtureRequest) -> Transfers:
    """Every back-end, on the device."""
    try:
        return transfers_named(request.param)
    except EngineUnavailable as error:
        missing(request, REQUIREMENT[request.param], str(error))
        raise AssertionError("missing() does not return") from error


@pytest.fixture
def opener(request: pytest.FixtureRequest) -> Callable[[str], OpenEngine]:
    """Engine -> the function that opens it."""

    def find(engine: str) -> OpenEngine:
        try:
            transfers_named()
        except EngineUnavailable as error:
            missing(request, "cuda", str(error))
        try:
            return engine_opener(engine)
        except EngineUnavailable as error:
            missing(request, REQUIREMENT[engine], str(error))
            raise AssertionError("missing() does not return") from error

    return find


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    """The embedded network on its pictures, without noise."""
    return replace(demo_recipe(), calibration_pictures=100, noise=("clean",))


@pytest.fixture(scope="session")
def float_model(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A copy, because TensorRT's plan is written beside it."""
    source = Path(recipe.model)
    copy = tmp_path_factory.mktemp("float") / source.name
    shutil.copy(source, copy)
    shutil.copy(sidecar_path(source), sidecar_path(copy))
    return plan(replace(recipe, model=str(copy))).artifact


@pytest.fixture(scope="session")
def for_tensorrt(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The embedded network as the project's own Q/DQ for TensorRT; writing it needs no GPU."""
    return _quantised(recipe, "tensorrt", tmp_path_factory.mktemp("tensorrt"))


@pytest.fixture(scope="session")
def for_cpu(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The same network for ONNX Runtime's integer kernels on the CPU."""
    return _quantised(recipe, "ort-cpu", tmp_path_factory.mktemp("cpu"))


def _quantised(recipe: Recipe, target: str, folder: Path) -> Artifact:
    with pytest.MonkeyPatch.context() as patch:
        row = ENGINES["ort-cpu"]._replace(quantised_for=target)
        patch.setitem(ENGINES, "writes", row)
        made = plan(replace(recipe, engines=("writes:integer",)))
        return prepare(made, folder, Progress())[0].artifact
