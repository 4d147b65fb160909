"""TensorRT as an engine: a plan on the ring. A plan has its kernels, its precision and its largest batch built in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engines.artifact import Artifact, ArtifactError
from engines.base import Array, EngineError, EngineOptions, refuse_options
from engines.building import BuildOptions
from engines.certificate import Certificate
from engines.cuda.device import first_device
from engines.cuda.engine import RingEngine
from engines.cuda.transfers import Graph, Pointer, Stream, Transfers, transfers_named
from engines.trt import library
from engines.trt.build import plan_from_onnx, station
from engines.trt.library import trt
from engines.trt.plan import certify_plan, engine_from_artifact
from engines.trt.record import artifact_from_plan, differences, record_from_artifact

ENDING = ".plan"


def plan_of(artifact: Artifact) -> Artifact:
    """The plan of a model: the artifact itself, or what was built of it beside its file, now or before.

    What was built before is taken only if it is of these bytes, with these options and for this machine; it is, so that
    a run that is repeated or continued runs the same kernels. Its name has the options in it, so that no plan which the
    user built is in its place.

    Raises:
        EngineUnavailable: there is no driver or GPU.
        EngineError: TensorRT refuses the model.
    """
    if artifact.format == "plan":
        return artifact
    options = BuildOptions()
    path = artifact.path.with_name(f"{artifact.path.name}.{options.digest}{ENDING}")
    try:
        plan = artifact_from_plan(path)
        record = record_from_artifact(plan)
    except ArtifactError:
        pass
    else:
        same = record.source_sha256 == artifact.sha256 and record.options == options
        if same and not differences(record, station(first_device())):
            return plan
    return plan_from_onnx(artifact, path, options, lambda phase, done, steps: None).artifact


class PlanNetwork:
    """An `engines.cuda.engine.Network`: an execution context of a plan.

    Args:
        plan: of `plan_of`.
        transfers: for CUDA graphs, which are captured where ``options.cuda_graph`` says so.
        stream: what the kernels are given to.
    """

    def __init__(self, plan: Artifact, options: EngineOptions, transfers: Transfers, stream: Stream) -> None:
        self._plan, self._options, self._transfers, self._stream = plan, options, transfers, stream
        self._record = record_from_artifact(plan)
        self.most_rows: int | None = self._record.batch[2]
        self._graphs: dict[tuple[int, Pointer, Pointer], tuple[Graph, trt.IExecutionContext]] = {}
        self._engine: trt.ICudaEngine | None = engine_from_artifact(plan)
        names = {self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)}
        if names != {plan.input.name, plan.output.name}:
            raise EngineError(
                f"{plan.path} has the tensors {sorted(names)}, its sidecar says {plan.input.name!r} and "
                f"{plan.output.name!r}; build it again"
            )
        self._context: trt.IExecutionContext | None = self._new_context()

    def enqueue(self, rows: int, source: Pointer, target: Pointer) -> None:
        """See `Network.enqueue`."""
        if not self._options.cuda_graph:
            self._start(self._context, rows, source, target)
            return
        key = (rows, source, target)
        if key not in self._graphs:
            # A graph holds addresses inside its context, so a context that is given another shape spoils it.
            context = self._new_context()
            # What TensorRT does once for a shape must be behind it before a capture.
            self._start(context, *key)
            graph = self._transfers.capture(self._stream, lambda: self._start(context, *key))
            self._graphs[key] = graph, context
        self._transfers.launch(self._graphs[key][0], self._stream)

    def facts(self) -> dict[str, Any]:
        """See `Network.facts`."""
        record = self._record
        return {
            "runtime": f"tensorrt {library.VERSION}",
            "provider": "TensorRT",
            "precision": record.options.precision,
            "integer_kernels": self._options.integer_kernels,
            "integers": list(record.integers),
            "threads": self._options.threads,
            "optimisation": self._options.optimisation,
            "arena": self._options.arena,
            "cuda_graph": self._options.cuda_graph,
            "plan_sha256": self._plan.sha256,
            "flags": list(record.flags),
            "batch": list(record.batch),
        }

    def close(self) -> None:
        """See `Network.close`."""
        for graph, _ in self._graphs.values():
            self._transfers.destroy(graph)
        self._graphs.clear()
        self._context = None
        self._engine = None

    def _new_context(self) -> trt.IExecutionContext:
        context = self._open().create_execution_context()
        if context is None:
            raise EngineError(
                f"the GPU has too little free memory to run {self._plan.path.name}; stop what else uses it, or build "
                f"it with a smaller --batch"
            )
        return context

    def _open(self) -> trt.ICudaEngine:
        if self._engine is None:
            raise EngineError(f"the engine of {self._plan.path} is closed; open it again")
        return self._engine

    def _start(self, context: trt.IExecutionContext | None, rows: int, source: Pointer, target: Pointer) -> None:
        plan = self._plan
        if context is None:
            raise EngineError(f"the engine of {plan.path} is closed; open it again")
        smallest, _, largest = self._record.batch
        shape = [rows, *(length or 0 for length in plan.input.shape[1:])]
        if not smallest <= rows <= largest or not context.set_input_shape(plan.input.name, trt.Dims(shape)):
            raise EngineError(
                f"{plan.path.name} takes {smallest} to {largest} pictures at once, got {rows}; build it with another "
                f"--batch"
            )
        given = context.set_tensor_address(plan.input.name, source) and context.set_tensor_address(
            plan.output.name, target
        )
        if not given or not context.execute_async_v3(self._transfers.handle(self._stream)):
            raise EngineError(
                f"TensorRT {library.VERSION} could not start {plan.path.name} with {rows} pictures; the GPU may be out "
                f"of memory, or an earlier operation on it failed: stop what else uses it and start the command again"
            )


def open_tensorrt(artifact: Artifact, options: EngineOptions) -> RingEngine:
    """An engine of a plan, or of an ONNX file, which is built first and may take minutes.

    Raises:
        EngineUnavailable: no driver, no device, or a package is missing.
        EngineError: the plan is for another machine, or an option or the model is refused.
        ArtifactError: the plan is not the one that its sidecar describes.
    """
    built_in = {"integer_kernels": True, "threads": 1, "optimisation": "all", "arena": True}
    refuse_options("TensorRT", options, built_in)
    plan = plan_of(artifact)
    return RingEngine(
        artifact,
        transfers_named(options.transfers),
        lambda transfers, stream: PlanNetwork(plan, options, transfers, stream),
    )


def certify_tensorrt(artifact: Artifact, options: EngineOptions, feeds: Mapping[str, Array]) -> Certificate:
    """An `engines.certificate.Certify`: what the engine inspector says of the plan that runs."""
    return certify_plan(plan_of(artifact), options, feeds)
