"""The wrapper with the real package, as far as it goes without a GPU; skipped where TensorRT is not installed."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from engines.base import EngineError, EngineUnavailable
from engines.cuda.device import first_device
from tests.conftest import missing
from tests.engines.trt.conftest import forget, module
from tests.engines.trt.test_stubs import OURS, classes, members

NEAREST = {8: "8.6", 9: "8.6", 10: "10.16", 11: "11.4"}


@pytest.fixture
def library(request: pytest.FixtureRequest) -> Any:
    if importlib.util.find_spec("tensorrt") is None:
        missing(request, "tensorrt", "TensorRT is not installed: pip install 'qharness[tensorrt]'")
    forget()
    try:
        return module("library")
    except EngineUnavailable as error:
        missing(request, "tensorrt", str(error))


def has_driver() -> bool:
    try:
        first_device()
    except EngineUnavailable:
        return False
    return True


def test_the_real_package_has_every_name_of_our_stubs(library: Any) -> None:
    for name, owner in classes(OURS, NEAREST[library.MAJOR]).items():
        real = getattr(library.trt, name)
        for member, node in members(owner):
            if not isinstance(node, ast.AnnAssign) or not member.startswith("__"):
                assert hasattr(real, member), f"{name}.{member}"


def test_its_network_flags_are_bits_that_it_knows(library: Any) -> None:
    expected = {8: ("EXPLICIT_BATCH",), 10: ("STRONGLY_TYPED",), 11: ()}
    assert library.network_flags() == expected[library.MAJOR]
    known = library.trt.NetworkDefinitionCreationFlag.__members__
    assert all(1 << int(known[name]) for name in library.network_flags())


def test_it_takes_our_log_and_our_shapes(library: Any) -> None:
    log = library.Log()
    log.log(library.trt.ILogger.ERROR, "an error")
    log.log(library.trt.ILogger.WARNING, "a warning")
    log.log(library.trt.ILogger.INFO, "a fact")
    assert (log.errors, log.warnings) == (["an error"], ["a warning"])
    assert list(library.trt.Dims([1, 3, 8, 8])) == [1, 3, 8, 8]


def test_without_a_driver_its_builder_refuses_in_words(library: Any) -> None:
    if has_driver():
        pytest.skip("there is a driver here, and the builder starts")
    with pytest.raises(EngineError, match=rf"TensorRT {library.VERSION} cannot start here") as caught:
        library.started(library.trt.Builder, library.Log())
    if library.MAJOR == 8:
        assert "CUDA initialization failure with error: 35" in str(caught.value)
        assert "Update the NVIDIA driver" in str(caught.value)


def test_its_progress_monitor_is_ours_where_it_has_one(library: Any) -> None:
    class Config:
        progress_monitor = None

    steps: list[tuple[str, int, int]] = []
    monitor = library.watch(Config(), lambda *step: steps.append(step)).monitor
    if library.MAJOR < 10:
        assert monitor is None
        return
    assert isinstance(monitor, library.trt.IProgressMonitor)
    assert hasattr(library.trt.IBuilderConfig, "progress_monitor")
    monitor.phase_start("Building", None, 2)
    assert monitor.step_complete("Building", 0)
    monitor.phase_finish("Building")
    assert steps == [("Building", 0, 2), ("Building", 1, 2), ("Building", 2, 2)]


def test_without_a_driver_nothing_of_it_is_touched(library: Any, quantised: Any) -> None:
    if has_driver():
        pytest.skip("there is a driver here")
    del library
    with pytest.raises(EngineUnavailable, match="there is no NVIDIA driver here"):
        module("build").plan_from_onnx(quantised, Path("m.plan"), None, lambda *_: None)
