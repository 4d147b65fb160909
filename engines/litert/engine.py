"""LiteRT on the CPU: a .tflite file as it is, on the kernels of XNNPACK, LiteRT's own, or its reference."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from engines.artifact import Artifact, TensorSpec
from engines.base import ON_A_GPU, Array, EngineError, EngineOptions, refuse_options
from engines.cpu import kernel_class, processor_name
from engines.litert.graph import RUNTIME, Graph, interpreter_from_file


class Session:
    """An interpreter, which runs one batch at a time.

    Raises:
        EngineError: LiteRT refuses the file, or has no such option.
    """

    def __init__(self, artifact: Artifact, options: EngineOptions) -> None:
        refuse_options("LiteRT", options, {"integer_kernels": True, "arena": True, **ON_A_GPU})
        self._path, self._optimisation = artifact.path, options.optimisation
        self._interpreter = interpreter_from_file(artifact.path, options.optimisation, options.threads)
        graph = Graph(self._interpreter)
        self._given, self._made = graph.inputs[0], graph.outputs[0]
        self._shape = self._given.shape

    def answer(self, values: Array) -> Array:
        """The rows of class scores, float32, for a batch as the artifact declares it.

        Raises:
            EngineError: LiteRT failed.
        """
        interpreter = self._interpreter
        try:
            if values.shape != self._shape:
                interpreter.resize_tensor_input(self._given.index, values.shape, strict=True)
                interpreter.allocate_tensors()
                self._shape = values.shape
            interpreter.set_tensor(self._given.index, self._given.codes(values))
            interpreter.invoke()
            return self._made.reals(interpreter.get_tensor(self._made.index))
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"LiteRT failed on {self._path.name}: {error}") from error

    def graph(self) -> Graph:
        """What the interpreter holds now."""
        return Graph(self._interpreter)

    def provider(self, graph: Graph) -> str:
        """Whose kernels run."""
        if graph.delegated:
            return "XNNPACK"
        return "LiteRT's reference" if self._optimisation == "disabled" else "LiteRT"


class LiteRtEngine:
    """A .tflite file; every thread has a session of its own."""

    reentrant = True

    def __init__(self, artifact: Artifact, options: EngineOptions) -> None:
        self.inputs: tuple[TensorSpec, ...] = (artifact.input,)
        self.outputs: tuple[TensorSpec, ...] = (artifact.output,)
        self._artifact, self._options = artifact, options
        self._closed = False
        self._sessions = threading.local()
        self._own()  # what is refused is refused now

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """See `engines.base.Engine.run`."""
        return {self.outputs[0].name: self._own().answer(feeds[self.inputs[0].name])}

    def facts(self) -> dict[str, Any]:
        """See `engines.base.Engine.facts`."""
        session = self._own()
        graph = session.graph()
        return {
            "runtime": RUNTIME,
            "provider": session.provider(graph),
            "device": processor_name(),
            "kernel_class": kernel_class(),
            "optimisation": self._options.optimisation,
            "arena": True,
            "threads": self._options.threads,  # LiteRT does not give it back
            "integer_kernels": True,
            "input": graph.inputs[0].describe(),
            "output": graph.outputs[0].describe(),
        }

    def close(self) -> None:
        """See `engines.base.Engine.close`."""
        self._closed = True
        self._sessions = threading.local()

    def _own(self) -> Session:
        """The session of this thread."""
        if self._closed:
            raise EngineError(f"the engine of {self._artifact.path} is closed; open it again")
        session: Session | None = getattr(self._sessions, "session", None)
        if session is None:
            session = self._sessions.session = Session(self._artifact, self._options)
        return session


def open_cpu(artifact: Artifact, options: EngineOptions) -> LiteRtEngine:
    """An engine on LiteRT's CPU kernels."""
    return LiteRtEngine(artifact, options)
