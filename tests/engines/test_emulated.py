"""Engines on emulated processors: what they read back, how they end, and what is said where they cannot be."""

from __future__ import annotations

import gc
import importlib
import os
import platform
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from engines import ENGINES
from engines.artifact import Artifact
from engines.base import EngineError, EngineOptions, EngineUnavailable, call
from engines.cpu import kernel_class, processor_name
from engines.ort import open_cpu
from harness.registry import engine_certifier, engine_opener
from tests.engines.quantised import quantised_artifact
from tests.engines.tiny import pictures

ROOT = Path(__file__).parent.parent.parent
EMULATED = {"ort-haswell": "AVX2", "ort-sandybridge": "SSE4", "ort-nehalem": "SSE4"}


@pytest.fixture
def emulated(qemu: None) -> ModuleType:
    return importlib.import_module("engines.emulated")


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return quantised_artifact(tmp_path)


def alive(process_id: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ended(process_id: int, seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while alive(process_id) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(process_id)


@pytest.mark.parametrize(("name", "expected"), EMULATED.items())
def test_emulated_engine_reads_back_its_processor_and_answers(
    emulated: ModuleType, artifact: Artifact, name: str, expected: str
) -> None:
    engine = engine_opener(name)(artifact, EngineOptions())
    facts = engine.facts()
    outputs = call(engine, {"x": pictures(2)}).outputs["y"]
    engine.close()
    assert facts["kernel_class"] == expected
    assert re.match(r"qemu-x86_64 version \d.*, -cpu \w+$", facts["emulator"])
    assert facts["device"] != processor_name()
    native = open_cpu(artifact, EngineOptions()).run({"x": pictures(2)})["y"]
    assert outputs == pytest.approx(native, abs=0.05 * float(np.abs(native).max()))


def test_kernel_class_is_that_of_the_instruction_and_not_of_the_host(emulated: ModuleType) -> None:
    code = "from engines.cpu import *; print(kernel_class(), kernel_class(CPUINFO), processor_name())"
    for cpu in emulated.CPUS.values():
        command = [emulated.EMULATOR, "-cpu", cpu.model, sys.executable, "-c", code]
        told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(maxsplit=2)
        assert told[0] == cpu.kernel_class
        assert told[1] == kernel_class()  # what the operating system writes is the host's
        assert told[2].strip() != processor_name()


def test_certificate_is_made_on_what_ran_in_the_child(emulated: ModuleType, artifact: Artifact) -> None:
    feeds = {"x": pictures(1)}
    found = engine_certifier("ort-haswell")(artifact, EngineOptions(), feeds)
    native = engine_certifier("ort-cpu")(artifact, EngineOptions(), feeds)
    assert found.integer_fraction == 1.0
    assert found.layers == native.layers
    assert found.evidence["kernel_class"] == "AVX2"
    assert found.evidence["emulator"].endswith(", -cpu Haswell")


def test_processor_that_reads_back_as_another_is_refused(
    emulated: ModuleType, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(emulated.CPUS, "haswell", emulated.Cpu("Nehalem", "AVX2"))
    with pytest.raises(EngineError, match=r"should have kernels of class AVX2, but .* reads back as SSE4"):
        emulated.open_haswell(artifact, EngineOptions())


def test_dead_child_is_an_error_with_its_exit_code(emulated: ModuleType, artifact: Artifact) -> None:
    engine = emulated.open_haswell(artifact, EngineOptions())
    os.kill(engine._child.process.pid, signal.SIGKILL)
    with pytest.raises(EngineError, match="the emulated Haswell died with exit code -9: it said nothing"):
        engine.run({"x": pictures(1)})
    engine.close()


def test_dead_child_is_quoted(
    emulated: ModuleType, artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "emulator"
    script.write_text("#!/bin/sh\necho 'one reason' >&2\necho 'warning: TCG doesn'\\''t support it' >&2\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setattr(emulated, "EMULATOR", str(script))
    with pytest.raises(EngineError, match=r"exit code 3: one reason$"):
        emulated.open_haswell(artifact, EngineOptions())


def test_closing_ends_the_child(emulated: ModuleType, artifact: Artifact) -> None:
    engine = emulated.open_haswell(artifact, EngineOptions())
    process = engine._child.process
    assert alive(process.pid)
    engine.close()
    assert process.returncode == 0


def test_forgotten_engine_ends_its_child(emulated: ModuleType, artifact: Artifact) -> None:
    engine = emulated.open_haswell(artifact, EngineOptions())
    process_id = engine._child.process.pid
    del engine
    gc.collect()
    assert ended(process_id)


@pytest.mark.parametrize("death", ["pass", "os.kill(os.getpid(), signal.SIGKILL)"], ids=["exit", "kill"])
def test_no_child_outlives_its_parent(emulated: ModuleType, artifact: Artifact, death: str) -> None:
    code = textwrap.dedent(
        f"""
        import os, signal
        from pathlib import Path
        from engines.base import EngineOptions
        from engines.emulated import open_haswell
        from engines.onnx_file import artifact_from_onnx
        engine = open_haswell(artifact_from_onnx(Path({str(artifact.path)!r})), EngineOptions())
        print(engine._child.process.pid, flush=True)
        {death}
        """
    )
    parent = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended(int(parent.stdout))


def test_prints_of_a_library_do_not_reach_the_answers(emulated: ModuleType, artifact: Artifact) -> None:
    code = textwrap.dedent(
        """
        from engines import emulated_worker
        real = emulated_worker.open_cpu
        def loud(artifact, options):
            print("a library speaks", flush=True)
            return real(artifact, options)
        emulated_worker.open_cpu = loud
        emulated_worker.main()
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    emulated.send(process.stdin, emulated._request("open", artifact, EngineOptions()), {})
    answer, _ = emulated.receive(process.stdout)
    _, errors = process.communicate()
    assert answer["answer"]["kernel_class"] == kernel_class()
    assert b"a library speaks" in errors


@pytest.mark.parametrize(
    ("path", "machine", "said"),
    [
        ("", "x86_64", "apt-get install qemu-user"),
        ("/usr/bin:/bin", "aarch64", r"for aarch64; use an x86-64 machine"),
    ],
)
def test_where_it_cannot_exist_the_registry_says_what_would_help(
    monkeypatch: pytest.MonkeyPatch, path: str, machine: str, said: str
) -> None:
    monkeypatch.delitem(sys.modules, "engines.emulated", raising=False)
    monkeypatch.setenv("PATH", path)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(EngineUnavailable, match=said):
        engine_opener("ort-haswell")


@pytest.mark.parametrize("name", EMULATED)
def test_emulated_rows_run_the_file_of_the_real_processor(name: str) -> None:
    assert ENGINES[name].quantised_for == ENGINES["ort-cpu"].quantised_for


def test_every_emulated_processor_has_a_row(emulated: ModuleType) -> None:
    assert {f"ort-{name}" for name in emulated.CPUS} == set(EMULATED)
    assert {f"ort-{name}": cpu.kernel_class for name, cpu in emulated.CPUS.items()} == EMULATED
