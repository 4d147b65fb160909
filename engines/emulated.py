"""ONNX Runtime on the instructions of another x86 processor: a server with VNNI answers for an edge CPU without.

Each engine is a child process under QEMU's user-mode emulation, which runs this same Python and the same wheel, and
answers CPUID as another processor would, so that ONNX Runtime chooses the kernels of that processor. What it
says is what that processor computes; how long it takes says nothing. A processor is in the table `CPUS` when its
kernels were seen to run. QEMU emulates no AVX-512: asked for a Skylake server it would answer as another Haswell.
"""

from __future__ import annotations

import contextlib
import platform
import shutil
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple, cast

from engines.artifact import Artifact, TensorSpec
from engines.base import Array, EngineError, EngineOptions, EngineUnavailable
from engines.certificate import Certificate, LayerProof
from engines.emulated_worker import artifact_as_json
from engines.pipe import PipeClosed, receive, send

HOME = Path(__file__).parent.parent
END_SECONDS = 10.0
LAST_LINES = 5


class Cpu(NamedTuple):
    """One processor: QEMU's name for it, and the kernel class that must be read back inside."""

    model: str
    kernel_class: str


CPUS = {
    "haswell": Cpu("Haswell", "AVX2"),
    "sandybridge": Cpu("SandyBridge", "SSE4"),
    "nehalem": Cpu("Nehalem", "SSE4"),
}


def find_emulator() -> str:
    """The path of QEMU's user-mode emulator.

    Raises:
        EngineUnavailable: it is not installed, or this Python is for another architecture.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        raise EngineUnavailable(
            f"an emulated x86 processor runs this machine's own Python, which is for {platform.machine()}; "
            f"use an x86-64 machine"
        )
    found = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")
    if found is None:
        raise EngineUnavailable("an emulated processor needs QEMU's user-mode emulation: apt-get install qemu-user")
    return found


# At the top, as a package would be imported: a module that cannot work here cannot be imported, and the registry says
# why before anything was calibrated.
EMULATOR = find_emulator()


@cache
def emulator_version() -> str:
    """QEMU's name for itself: "qemu-x86_64 version 7.2.22 (...)"."""
    told = subprocess.run([EMULATOR, "--version"], capture_output=True, text=True, check=False).stdout
    return told.splitlines()[0] if told else "an emulator without a version"


class Child:
    """The worker process of one engine."""

    def __init__(self, cpu: Cpu) -> None:
        self.cpu = cpu
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the child
        command = [EMULATOR, "-cpu", cpu.model, sys.executable, "-m", "engines.emulated_worker"]
        self.process = subprocess.Popen(
            command, cwd=HOME, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
        )
        # Runs when this object goes, and at the interpreter's exit. A parent that is killed closes the pipe too.
        self.end = weakref.finalize(self, _end, self.process, self._errors)

    def ask(self, request: Mapping[str, Any], arrays: Mapping[str, Array]) -> tuple[dict[str, Any], dict[str, Array]]:
        """Send a request and wait for its answer.

        Raises:
            EngineError: the engine in the child refused, or the child died.
        """
        try:
            send(_stream(self.process.stdin), request, arrays)
            answer, outputs = receive(_stream(self.process.stdout))
        except (PipeClosed, OSError) as error:
            _stop(self.process)
            told = f"exit code {self.process.returncode}: {self._last_words()}"
            self.end()
            raise EngineError(f"the emulated {self.cpu.model} died with {told}") from error
        if "error" in answer:
            raise EngineError(f"on the emulated {self.cpu.model}: {answer['error']}")
        return answer["answer"], outputs

    def _last_words(self) -> str:
        """The last lines that the child wrote, without QEMU's warnings about instructions that it lacks."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").splitlines()
        told = [line for line in lines if line.strip() and "TCG doesn't support" not in line]
        return " / ".join(told[-LAST_LINES:]) or "it said nothing"


class EmulatedEngine:
    """An ONNX Runtime session in a child process. The answers are another processor's; the time is nobody's."""

    reentrant = False  # one pipe, one question at a time

    def __init__(self, artifact: Artifact, options: EngineOptions, cpu: Cpu) -> None:
        self.inputs: tuple[TensorSpec, ...] = (artifact.input,)
        self.outputs: tuple[TensorSpec, ...] = (artifact.output,)
        self._path = artifact.path
        self._cpu = cpu
        child = Child(cpu)
        try:
            facts, _ = child.ask(_request("open", artifact, options), {})
            _check_kernel_class(cpu, facts)
        except EngineError:
            child.end()
            raise
        self._child: Child | None = child

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """See `engines.base.Engine.run`."""
        return self._open().ask({"do": "run"}, feeds)[1]

    def facts(self) -> dict[str, Any]:
        """See `engines.base.Engine.facts`."""
        facts, _ = self._open().ask({"do": "facts"}, {})
        return {**facts, "emulator": _emulator_of(self._cpu)}

    def close(self) -> None:
        """See `engines.base.Engine.close`."""
        if self._child is not None:
            self._child.end()
            self._child = None

    def _open(self) -> Child:
        if self._child is None:
            raise EngineError(f"the engine of {self._path} is closed; open it again")
        return self._child


def open_emulated(name: str, artifact: Artifact, options: EngineOptions) -> EmulatedEngine:
    """An engine on one of `CPUS`."""
    return EmulatedEngine(artifact, options, CPUS[name])


def certify_emulated(name: str, artifact: Artifact, options: EngineOptions, feeds: Mapping[str, Array]) -> Certificate:
    """`engines.ort_certificate.certify_cpu`, on what ran inside the child."""
    cpu = CPUS[name]
    child = Child(cpu)
    try:
        found, _ = child.ask(_request("certify", artifact, options), feeds)
    finally:
        child.end()
    _check_kernel_class(cpu, found["evidence"])
    layers = (LayerProof(**{**layer, "input_types": tuple(layer["input_types"])}) for layer in found["layers"])
    evidence = {**found["evidence"], "emulator": _emulator_of(cpu)}
    return Certificate(tuple(layers), found["other_kernels"], evidence)


open_haswell, certify_haswell = partial(open_emulated, "haswell"), partial(certify_emulated, "haswell")
open_sandybridge, certify_sandybridge = partial(open_emulated, "sandybridge"), partial(certify_emulated, "sandybridge")
open_nehalem, certify_nehalem = partial(open_emulated, "nehalem"), partial(certify_emulated, "nehalem")


def _request(what: str, artifact: Artifact, options: EngineOptions) -> dict[str, Any]:
    return {"do": what, "artifact": artifact_as_json(artifact), "options": asdict(options)}


def _emulator_of(cpu: Cpu) -> str:
    return f"{emulator_version()}, -cpu {cpu.model}"


def _check_kernel_class(cpu: Cpu, said: Mapping[str, Any]) -> None:
    if said["kernel_class"] != cpu.kernel_class:
        raise EngineError(
            f"an emulated {cpu.model} should have kernels of class {cpu.kernel_class}, but the processor inside "
            f"reads back as {said['kernel_class']}; another QEMU may be needed"
        )


def _stream(stream: IO[bytes] | None) -> BinaryIO:
    """One of a child's pipes, which are all there."""
    return cast(BinaryIO, stream)


def _end(process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
    _stop(process)
    _stream(process.stdout).close()
    errors.close()


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a worker: close its pipe, and kill it if it has not gone soon."""
    with contextlib.suppress(OSError):  # what was left unsent finds no reader
        _stream(process.stdin).close()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
