"""ONNX Runtime. The same Q/DQ file runs on integer kernels or, on request, as the arithmetic it simulates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnxruntime as ort

from engines.artifact import Artifact, TensorSpec
from engines.base import ON_A_GPU, Array, EngineError, EngineOptions, refuse_options
from engines.cpu import kernel_class, processor_name

CPU = "CPUExecutionProvider"
SIMULATE = "session.disable_quant_qdq"

# ORT's exceptions have no common class of their own.
_state = ort.capi.onnxruntime_pybind11_state
OrtFailure = (
    _state.EPFail,
    _state.Fail,
    _state.InvalidArgument,
    _state.InvalidGraph,
    _state.InvalidProtobuf,
    _state.NoSuchFile,
    _state.NotImplemented,
    _state.RuntimeException,
)


_LEVELS = {
    "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


def session_options(options: EngineOptions, config: Mapping[str, str] | None = None) -> ort.SessionOptions:
    """The session options that stand for `EngineOptions`; the certificate opens its session with the same.

    Args:
        config: `engines.artifact.Artifact.session_config`.
    """
    session = ort.SessionOptions()
    for entry, value in (config or {}).items():
        session.add_session_config_entry(entry, value)
    session.intra_op_num_threads = options.threads
    session.inter_op_num_threads = 1
    session.log_severity_level = 3
    session.enable_cpu_mem_arena = options.arena
    session.graph_optimization_level = _LEVELS[options.optimisation]
    if not options.integer_kernels:
        # Q/DQ pairs stay where the file has them. Only the basic optimisations run beside that: they keep the
        # bits of the unoptimised graph, while layout optimisation changes the order of float sums, and with
        # it which activations round up: as large a change as going to integer kernels.
        session.add_session_config_entry(SIMULATE, "1")
        if options.optimisation != "disabled":
            session.graph_optimization_level = _LEVELS["basic"]
    return session


def live_facts(session: ort.InferenceSession) -> dict[str, Any]:
    """What a session says of itself."""
    live = session.get_session_options()
    return {
        "runtime": f"onnxruntime {ort.__version__}",
        "provider": session.get_providers()[0],
        "kernel_class": kernel_class(),
        "optimisation": next(name for name, level in _LEVELS.items() if level == live.graph_optimization_level),
        "arena": live.enable_cpu_mem_arena,
        "threads": live.intra_op_num_threads,
        "integer_kernels": not _is_set(live, SIMULATE),
    }


class OrtEngine:
    """An ONNX Runtime session on one provider."""

    reentrant = True  # InferenceSession.run may be called from several threads

    def __init__(self, artifact: Artifact, options: EngineOptions, provider: str) -> None:
        self.inputs: tuple[TensorSpec, ...] = (artifact.input,)
        self.outputs: tuple[TensorSpec, ...] = (artifact.output,)
        self._path = artifact.path
        self._config = artifact.session_config
        try:
            self._session: ort.InferenceSession | None = ort.InferenceSession(
                str(artifact.path), session_options(options, artifact.session_config), providers=[provider]
            )
        except OrtFailure as error:
            raise EngineError(f"ONNX Runtime {ort.__version__} cannot open {artifact.path}: {error}") from error
        got = self._session.get_providers()
        if got[0] != provider:
            raise EngineError(f"asked ONNX Runtime for {provider}, got {got}: it fell back in silence")

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """See `engines.base.Engine.run`."""
        if self._session is None:
            raise EngineError(f"the engine of {self._path} is closed; open it again")
        names = [spec.name for spec in self.outputs]
        try:
            return dict(zip(names, self._session.run(names, dict(feeds)), strict=True))
        except OrtFailure as error:
            raise EngineError(f"ONNX Runtime failed on {self._path.name}: {error}") from error

    def facts(self) -> dict[str, Any]:
        """See `engines.base.Engine.facts`."""
        if self._session is None:
            raise EngineError(f"the engine of {self._path} is closed; open it again")
        live = self._session.get_session_options()
        config = {entry: live.get_session_config_entry(entry) for entry in self._config}
        return {**live_facts(self._session), "device": processor_name(), "session_config": config}

    def close(self) -> None:
        """See `engines.base.Engine.close`."""
        self._session = None


def open_cpu(artifact: Artifact, options: EngineOptions) -> OrtEngine:
    """An engine on ONNX Runtime's CPU provider."""
    refuse_options("ONNX Runtime's CPU provider", options, ON_A_GPU)
    return OrtEngine(artifact, options, CPU)


def _is_set(session: ort.SessionOptions, entry: str) -> bool:
    """Whether a live session has a configuration entry at "1"."""
    try:
        return bool(session.get_session_config_entry(entry) == "1")
    except RuntimeError:  # ONNX Runtime's way to say that the entry was never made
        return False
