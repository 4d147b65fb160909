"""The one door to TensorRT, and the one place that knows how its versions differ.

What a version can do is read from the module itself wherever it shows there, by the names of its enumerations. The
number decides only where a name outlived its meaning: ``EXPLICIT_BATCH`` is ignored from 10 on, ``STRONGLY_TYPED`` from
11 on, and 8.6 has a name for FP8 without taking it in Q/DQ.

| | 8.6 | 10 | 11 |
|---|---|---|---|
| batch | ``EXPLICIT_BATCH`` | always explicit | always explicit |
| types | weak: flags allow INT8 and FP16 | ``STRONGLY_TYPED``: the graph says | always strong |
| INT4, FP8 in Q/DQ | no | yes | yes |
| progress | no | ``IProgressMonitor`` | ``IProgressMonitor`` |
"""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

from engines.base import EngineError, EngineUnavailable
from engines.building import OnStep
from engines.trt.lint import FLOAT8

try:
    import tensorrt as trt
except ModuleNotFoundError:
    raise
except (ImportError, OSError) as error:
    raise EngineUnavailable(
        f"TensorRT is installed, but its libraries cannot be loaded: {error}. They come with the package of the same "
        f"version (tensorrt_cu13_libs for tensorrt_cu13_bindings); 8.6 also needs cuBLAS 12 and cuDNN 8"
    ) from error

__all__ = ["MAJOR", "VERSION", "Log", "trt"]

VERSION = str(vars(trt)["__version__"])
MAJOR = int(VERSION.split(".", maxsplit=1)[0])
if tuple(int(part) for part in VERSION.split(".")[:2]) < (8, 6):
    raise EngineUnavailable(
        f"TensorRT {VERSION} is too old; qharness works with it from 8.6 on. docs/gpu.md says which to install where; "
        f"on a Jetson it comes with JetPack 6"
    )

T = TypeVar("T")

# Names of DataType that a weakly typed network can be allowed, by the flags of the builder.
_WEAK_FLAGS = {"fp16": "FP16", "bf16": "BF16"}


class Log(trt.ILogger):
    """What TensorRT says. Warnings and errors are kept, for messages; TensorRT itself prints nothing."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        """Called by TensorRT, from several threads."""
        if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
            self.errors.append(msg)
        elif severity == trt.ILogger.WARNING:
            self.warnings.append(msg)


# TensorRT keeps the first log that it is given for all that comes after, so there is one, and it outlives every engine.
_LOG = Log()


def log_of_the_process() -> Log:
    """The log, without what earlier operations left in it."""
    _LOG.errors.clear()
    _LOG.warnings.clear()
    return _LOG


def started(kind: Callable[[Log], T], log: Log) -> T:
    """A ``Builder`` or a ``Runtime``.

    Raises:
        EngineError: TensorRT gives none, because there is no driver, or one that is too old.
    """
    try:
        return kind(log)
    except TypeError as error:  # what the bindings make of a null pointer
        raise refusal(f"TensorRT {VERSION} cannot start here", log) from error


def strongly_typed() -> bool:
    """Whether the types in the graph decide alone; else they are a wish, and flags allow other types."""
    return MAJOR >= 11 or "STRONGLY_TYPED" in trt.NetworkDefinitionCreationFlag.__members__


def network_flags() -> tuple[str, ...]:
    """Names of the flags that a network is created with."""
    wanted = {"EXPLICIT_BATCH": MAJOR < 10, "STRONGLY_TYPED": MAJOR < 11}
    known = trt.NetworkDefinitionCreationFlag.__members__
    return tuple(name for name, meant in wanted.items() if meant and name in known)


def new_network(builder: trt.Builder) -> trt.INetworkDefinition:
    """An empty network with an explicit batch, strongly typed where the version can."""
    known = trt.NetworkDefinitionCreationFlag.__members__
    return builder.create_network(sum(1 << int(known[name]) for name in network_flags()))


def set_types(config: trt.IBuilderConfig, precision: str, integers: Sequence[str]) -> None:
    """Allow what the graph holds where the version wants to be asked, and TF32 only where the user does.

    Raises:
        EngineError: the version cannot compute so.
    """
    config.clear_flag(trt.BuilderFlag.TF32)
    if precision == "tf32":
        config.set_flag(trt.BuilderFlag.TF32)
    if strongly_typed():
        return
    names = ["INT8"] if "int8" in integers else []
    names += [_WEAK_FLAGS[precision]] if precision in _WEAK_FLAGS else []
    for name in names:
        config.set_flag(_member(trt.BuilderFlag.__members__, name, "the builder's flag"))


def check_integers(integers: Sequence[str], compute_capability: str) -> None:
    """See that this version and this GPU compute with the element types of a file's Q/DQ.

    Raises:
        EngineError: they do not.
    """
    late = sorted(set(integers) & {"int4", FLOAT8})
    if late and MAJOR < 10:
        raise EngineError(
            f"the file holds {', '.join(late)}; TensorRT takes it from version 10 on, here is {VERSION}. Quantise the "
            f"model to INT8, or build on a newer TensorRT"
        )
    if FLOAT8 in late and tuple(map(int, compute_capability.split("."))) < (8, 9):
        raise EngineError(
            f"the file holds FP8; a GPU computes with it from compute capability 8.9 on, here is {compute_capability}. "
            f"Quantise the model to INT8"
        )


def set_hardware(config: trt.IBuilderConfig, level: str) -> None:
    """Which other GPUs may run the plan.

    Args:
        level: one of `engines.trt.record.HARDWARE`.

    Raises:
        EngineError: this version knows no such level.
    """
    members = trt.HardwareCompatibilityLevel.__members__
    config.hardware_compatibility_level = _member(
        members, level.upper().replace("-", "_"), "the hardware compatibility level"
    )


def leave_out_external_tactics(config: trt.IBuilderConfig) -> None:
    """Try no kernels of cuBLAS and cuDNN, which TensorRT 8 and 10 can do without, and 11 does."""
    external = sum(
        1 << int(source)
        for name, source in trt.TacticSource.__members__.items()
        if name.startswith(("CUBLAS", "CUDNN"))
    )
    config.set_tactic_sources(config.get_tactic_sources() & ~external)


class Watch:
    """The builder's steps, told to ``on_step``, and whether the user interrupted one of them.

    An exception must not pass through TensorRT, which calls the log and the monitor and drops what they raise. So
    Ctrl-C only leaves a mark while it builds: the monitor cancels the build, and `engines.trt.build` raises it after.
    """

    def __init__(self, on_step: OnStep) -> None:
        self.interrupted = False
        self.monitor: Any = None
        self._on_step = on_step
        self._steps: dict[str, int] = {}

    def tell(self, phase: str, done: int | None = None, total: int | None = None) -> None:
        """One step of a phase; the last one where ``done`` is left out."""
        try:
            steps = self._steps.setdefault(phase, total or 0)
            self._on_step(phase, steps if done is None else done, steps)
        except KeyboardInterrupt:
            self.interrupted = True

    @contextmanager
    def instead_of_interrupts(self) -> Iterator[None]:
        """Have Ctrl-C set ``interrupted``; where there is no monitor to see it, a second one ends the process."""

        def mark(number: int, frame: FrameType | None) -> None:
            del frame
            self.interrupted = True
            signal.signal(number, signal.SIG_DFL)

        ours = threading.current_thread() is threading.main_thread()
        if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return
        signal.signal(signal.SIGINT, mark)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def watch(config: trt.IBuilderConfig, on_step: OnStep) -> Watch:
    """Have the builder report its steps, where the version can; keep what is returned until it ends."""
    watched = Watch(on_step)
    base = vars(trt).get("IProgressMonitor")
    if base is None or not hasattr(config, "progress_monitor"):
        return watched

    def phase_start(monitor: Any, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        del monitor, parent_phase
        watched.tell(phase_name, 0, num_steps)

    def step_complete(monitor: Any, phase_name: str, step: int) -> bool:
        del monitor
        watched.tell(phase_name, step + 1)
        return not watched.interrupted

    def phase_finish(monitor: Any, phase_name: str) -> None:
        del monitor
        watched.tell(phase_name)

    # The base exists in some versions only, so the class is made when it is known to.
    methods = {"phase_start": phase_start, "step_complete": step_complete, "phase_finish": phase_finish}
    watched.monitor = type("Monitor", (base,), methods)()
    config.progress_monitor = watched.monitor
    return watched


def bytes_of(memory: Any) -> bytes:
    """The bytes of what TensorRT serialised: an ``IHostMemory`` offers the buffer protocol, but no stub says so."""
    return bytes(memory)


def flags_of(config: trt.IBuilderConfig) -> tuple[str, ...]:
    """The names of the flags that are really set."""
    return tuple(sorted(name for name, flag in trt.BuilderFlag.__members__.items() if config.get_flag(flag)))


def refusal(what: str, log: Log) -> EngineError:
    """The error for something that TensorRT gave up, with its own words and what to do."""
    said = "; ".join(dict.fromkeys(text.strip() for text in log.errors[-3:])) or "; ".join(log.warnings[-1:])
    advice = next((text for pattern, text in ADVICE if re.search(pattern, said, re.IGNORECASE)), None)
    return EngineError(f"{what}: {said or 'TensorRT gave no reason'}" + (f". {advice}" if advice else ""))


# What TensorRT's messages ask for; the texts are those in the libraries of 8.6, the first that matches counts.
ADVICE = (
    (r"initialization failure with error: 35|driver version is insufficient", "Update the NVIDIA driver"),
    (r"initialization failure", "Does nvidia-smi run? After an update of the driver, reboot"),
    (
        r"out ?of ?memory|insufficient memory|memory is insufficient",
        "The GPU has too little free memory: stop what else uses it, or build with smaller --batch and --workspace",
    ),
    (r"not compatible with this version|version tag does not match", "Build the plan again with this TensorRT"),
    (r"incompatible device|current device is not compatible", "Build the plan again on this GPU"),
    (r"magic ?tag|deserializ", "The plan is damaged: copy it again, or build it again"),
    (
        r"no importer registered|plugin not found|unsupported_node|no plugin",
        "TensorRT does not know this operator: export the model without it, in the operators of the ONNX standard",
    ),
    (r"could not find any implementation", "Give the layer more memory with --workspace, or a higher --level"),
)


def _member(members: dict[str, Any], name: str, what: str) -> Any:
    if name not in members:
        raise EngineError(f"TensorRT {VERSION} does not know {what} {name}; it knows {', '.join(sorted(members))}")
    return members[name]
