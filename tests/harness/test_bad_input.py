"""What can be wrong with a driver, a GPU, a TensorRT or a plan: one message each, with what to do, and nothing lost.

TensorRT is a double here; what its real libraries say is in `tests/engines/trt/test_real_library.py`, and what happens
in the middle of a run in `tests/engines/trt/test_engine.py` and `tests/engines/cuda/test_engine.py`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from engines.artifact import Artifact
from engines.base import EngineUnavailable
from engines.cuda.device import Device
from harness.cli import main
from tests.engines.trt.conftest import DEVICE, Install, forget, install, module, quantised
from tests.engines.trt.double import Behaviour

__all__ = ["install", "quantised"]

BUILD, INSPECT = "build", "inspect"


def no_driver(install: Install, plan: Path) -> None:
    del plan
    install("11.4")

    def refuse() -> Device:
        raise EngineUnavailable("there is no NVIDIA driver here: libcuda.so.1 cannot be opened. Install the driver")

    for name in ("build", "plan", "engine"):
        vars(module(name))["first_device"] = refuse


def old_driver(install: Install, plan: Path) -> None:
    del plan
    install("10.16", Behaviour(starts=False))


def too_old_a_tensorrt(install: Install, plan: Path) -> None:
    del plan
    install("11.4")
    vars(sys.modules["tensorrt"])["__version__"] = "8.5.2"
    forget()


def full_while_it_builds(install: Install, plan: Path) -> None:
    del plan
    install("11.4", Behaviour(build_error="[MemUsage] OutOfMemory: no further information"))


def full_while_it_loads(install: Install, plan: Path) -> None:
    del plan
    install("11.4", Behaviour(load_error="Requested amount of GPU memory could not be allocated: out of memory"))


def full_when_it_is_to_run(install: Install, plan: Path) -> None:
    del plan
    install("11.4", Behaviour(has_memory=False))


def unknown_operator(install: Install, plan: Path) -> None:
    del plan
    install("11.4", Behaviour(parser_errors=((0, "No importer registered for op: Conv"),)))


def other_tensorrt(install: Install, plan: Path) -> None:
    del plan
    install("10.16")


def other_gpu(install: Install, plan: Path) -> None:
    del plan
    install("11.4", device=replace(DEVICE, name="NVIDIA Orin", compute_capability="8.7"))


def damaged_plan(install: Install, plan: Path) -> None:
    install("11.4")
    plan.write_bytes(b"rubbish" + plan.read_bytes()[7:])


def damaged_before_its_sidecar_was_written(install: Install, plan: Path) -> None:
    """The bytes are those of the sidecar, and TensorRT does not know them."""
    install("11.4", Behaviour(load_error="Serialization assertion magicTag == rt::kPLAN_MAGIC_TAG failed."))


def damaged_sidecar(install: Install, plan: Path) -> None:
    install("11.4")
    sidecar = plan.with_name(plan.name + ".json")
    content = json.loads(sidecar.read_text())
    del content["made_by"]["plan"]["built_on"]
    sidecar.write_text(json.dumps(content))


class Case(NamedTuple):
    """The command that meets it, how it comes about, what is said to be wrong, and what to do."""

    command: str
    spoil: Callable[[Install, Path], None]
    wrong: str
    advice: str


CASES = [
    Case(BUILD, no_driver, "there is no NVIDIA driver here", "Install the driver"),
    Case(INSPECT, no_driver, "there is no NVIDIA driver here", "Install the driver"),
    Case(BUILD, old_driver, "TensorRT 10.16.1.11 cannot start here", "Update the NVIDIA driver"),
    Case(BUILD, too_old_a_tensorrt, "TensorRT 8.5.2 is too old", "from 8.6 on"),
    Case(BUILD, full_while_it_builds, "cannot build m.onnx: [MemUsage] OutOfMemory", "smaller --batch and --workspace"),
    Case(INSPECT, full_while_it_loads, "cannot load", "stop what else uses it"),
    Case(INSPECT, full_when_it_is_to_run, "too little free memory to run m.plan", "stop what else uses it"),
    Case(BUILD, unknown_operator, "cannot read m.onnx: stem (Conv): No importer", "export the model without it"),
    Case(INSPECT, other_tensorrt, "built by TensorRT 11.4.0.106, here is 10.16.1.11", "Build it here: qharness build"),
    Case(INSPECT, other_gpu, "here is 8.7 (NVIDIA Orin)", "Build it here: qharness build"),
    Case(INSPECT, damaged_plan, "is not the plan that its sidecar", "build it again"),
    Case(INSPECT, damaged_before_its_sidecar_was_written, "cannot load", "The plan is damaged: copy it again"),
    Case(INSPECT, damaged_sidecar, "is not a whole record of a plan", "build the plan again"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.command}, {case.spoil.__name__}")
def test_what_is_wrong_is_one_message_with_what_to_do(
    case: Case, install: Install, quantised: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    install("11.4")
    plan = quantised.path.with_name("m.plan")
    build = ["build", str(quantised.path), "-o", str(plan)]
    assert main(build) == 0
    case.spoil(install, plan)
    before = {file: file.read_bytes() for file in plan.parent.iterdir()}
    capsys.readouterr()
    assert main(build if case.command == BUILD else ["inspect", str(plan)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith("error: ")
    assert said.count("error: ") == 1 + said.count("error: 35")
    assert case.wrong in said
    assert case.advice in said
    assert {file: file.read_bytes() for file in plan.parent.iterdir()} == before, "something was lost"


def test_damaged_timing_cache_is_set_aside_with_a_note(
    install: Install, quantised: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    install("11.4")
    plan = quantised.path.with_name("m.plan")
    plan.with_name("m.plan.timing").write_bytes(b"rubbish")
    assert main(["build", str(quantised.path), "-o", str(plan)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "note: the timing cache m.plan.timing is damaged or of another GPU; it was set aside" in said
    assert plan.with_name("m.plan.timing.refused").read_bytes() == b"rubbish"
