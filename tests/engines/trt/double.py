"""A double of the ``tensorrt`` module, for control flow alone: it builds and computes nothing.

It has the names that each version has, with the signatures of the stubs (`test_stubs` compares them), and fails the way
TensorRT does: a builder that cannot be created is a `TypeError` of the bindings, everything else is a ``None`` or
``False``, and words in the log.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import onnx

VERSIONS = ("8.6", "10.16", "11.4")
FULL = {"8.6": "8.6.0", "10.16": "10.16.1.11", "11.4": "11.4.0.106"}
MAGIC = b"a plan of the double: "
CACHE_MAGIC = b"a timing cache of the double"


@dataclass
class Behaviour:
    """What goes wrong, and what was asked for.

    Args:
        starts: whether a builder or a runtime can be created; they cannot where there is no driver, or too old a one.
        parser_errors: (number of the node, text) of what the parser refuses.
        build_error: what the builder says when it gives up.
        load_error: what the runtime says when it gives up.
        has_memory: whether a context can be created.
        kernel: what a context (with its ``shape`` and its ``addresses`` by name) does when it is started on a stream;
            ``None`` has it refuse.
        while_building: what happens while TensorRT is in the log; what it raises is dropped, as TensorRT does.
        inspector: the JSON of the engine inspector; by default layers in INT8 of the version's schema.
        asked: what the code under test asked for: names of flags, shapes, limits.
    """

    starts: bool = True
    parser_errors: tuple[tuple[int, str], ...] = ()
    build_error: str = ""
    load_error: str = ""
    has_memory: bool = True
    kernel: Callable[[Any, int], None] | None = None
    while_building: Callable[[], None] = lambda: None
    inspector: str = ""
    asked: dict[str, Any] = field(default_factory=dict)


class Severity(enum.Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ILogger:
    Severity = Severity
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = Severity

    def __init__(self) -> None: ...

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


class IHostMemory:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def __bytes__(self) -> bytes:
        return self._content

    @property
    def nbytes(self) -> int:
        return len(self._content)


class Dims(tuple[int, ...]):
    def __new__(cls, shape: list[int]) -> Dims:
        return super().__new__(cls, shape)

    def __init__(self, shape: list[int]) -> None: ...


class IOptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[Dims, Dims, Dims]] = {}

    def set_shape(self, input: str, min: Dims, opt: Dims, max: Dims) -> None:
        self.shapes[input] = (min, opt, max)


class ITimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> IHostMemory:
        return IHostMemory(self.content)


class INetworkDefinition:
    def __init__(self) -> None:
        self.model = onnx.ModelProto()

    @property
    def num_inputs(self) -> int:
        return len(self.model.graph.input)


class ParserError:
    def __init__(self, node: int, desc: str) -> None:
        self._node, self._desc = node, desc

    def node(self) -> int:
        return self._node

    def desc(self) -> str:
        return self._desc


MEMBERS = {
    "8.6": {
        "BuilderFlag": ("FP16", "INT8", "TF32", "VERSION_COMPATIBLE"),
        "NetworkDefinitionCreationFlag": ("EXPLICIT_BATCH", "EXPLICIT_PRECISION"),
        "HardwareCompatibilityLevel": ("NONE", "AMPERE_PLUS"),
        "TacticSource": ("CUBLAS", "CUBLAS_LT", "CUDNN", "EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"),
    },
    "10.16": {
        "BuilderFlag": ("FP16", "INT8", "BF16", "TF32", "VERSION_COMPATIBLE"),
        "NetworkDefinitionCreationFlag": ("EXPLICIT_BATCH", "STRONGLY_TYPED"),
        "HardwareCompatibilityLevel": ("NONE", "AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY"),
        "TacticSource": ("CUBLAS", "CUBLAS_LT", "CUDNN", "EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"),
    },
    "11.4": {
        "BuilderFlag": ("TF32", "VERSION_COMPATIBLE"),
        "NetworkDefinitionCreationFlag": ("STRONGLY_TYPED",),
        "HardwareCompatibilityLevel": ("NONE", "AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY"),
        "TacticSource": ("EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"),
    },
}
ALWAYS = {"MemoryPoolType": ("WORKSPACE",), "ProfilingVerbosity": ("DETAILED",), "LayerInformationFormat": ("JSON",)}


def tensorrt_double(version: str, behaviour: Behaviour) -> ModuleType:
    """A module that stands in for ``tensorrt`` of a version."""
    module: Any = ModuleType("tensorrt")
    module.__version__ = FULL[version]
    for name, members in {**ALWAYS, **MEMBERS[version]}.items():
        setattr(module, name, enum.IntEnum(name, members, start=0))
    fixed = (Dims, IHostMemory, ILogger, INetworkDefinition, IOptimizationProfile, ITimingCache, ParserError)
    for each in fixed:
        setattr(module, each.__name__, each)
    if version != "8.6":
        module.IProgressMonitor = IProgressMonitor
    for make in (_config, _builder, _parser, _runtime):
        for each in make(module, version, behaviour):
            setattr(module, each.__name__, each)
    return module  # type: ignore[no-any-return]


class IProgressMonitor:
    def __init__(self) -> None: ...

    def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None: ...

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError

    def phase_finish(self, phase_name: str) -> None: ...


def _config(module: Any, version: str, behaviour: Behaviour) -> tuple[type, ...]:
    class IBuilderConfig:
        def __init__(self) -> None:
            self.flags = {module.BuilderFlag.TF32}
            self.sources = sum(1 << int(source) for source in module.TacticSource)
            self.cache: ITimingCache | None = None
            if version != "8.6":
                self.progress_monitor: IProgressMonitor | None = None

        def set_flag(self, flag: Any) -> None:
            self.flags.add(flag)

        def clear_flag(self, flag: Any) -> None:
            self.flags.discard(flag)

        def get_flag(self, flag: Any) -> bool:
            return flag in self.flags

        def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
            behaviour.asked["pool"] = (pool.name, pool_size)

        def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
            behaviour.asked["shapes"] = profile.shapes
            return 0

        def get_tactic_sources(self) -> int:
            return self.sources

        def set_tactic_sources(self, tactic_sources: int) -> bool:
            self.sources = tactic_sources
            return True

        def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
            return ITimingCache(bytes(serialized_timing_cache))

        def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
            self.cache = cache
            return not cache.content or cache.content.startswith(CACHE_MAGIC) or ignore_mismatch

        def get_timing_cache(self) -> ITimingCache:
            assert self.cache is not None
            return ITimingCache(self.cache.content or CACHE_MAGIC)

    return (IBuilderConfig,)


def _builder(module: Any, version: str, behaviour: Behaviour) -> tuple[type, ...]:
    class Builder:
        def __init__(self, logger: ILogger) -> None:
            if not behaviour.starts:
                logger.log(Severity.WARNING, "CUDA initialization failure with error: 35. Please check your CUDA")
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self._logger = logger
            behaviour.asked.setdefault("loggers", []).append(logger)

        def create_builder_config(self) -> Any:
            return module.IBuilderConfig()

        def create_network(self, flags: int = 0) -> INetworkDefinition:
            known = module.NetworkDefinitionCreationFlag
            behaviour.asked["network"] = {flag.name for flag in known if flags & 1 << int(flag)}
            return INetworkDefinition()

        def create_optimization_profile(self) -> IOptimizationProfile:
            return IOptimizationProfile()

        def build_serialized_network(self, network: INetworkDefinition, config: Any) -> IHostMemory | None:
            behaviour.asked["config"] = config
            behaviour.asked["model"] = network.model
            monitor = getattr(config, "progress_monitor", None)
            if monitor is not None:
                monitor.phase_start("Building Engine", None, 2)
                goes_on = monitor.step_complete("Building Engine", 0)
                monitor.phase_finish("Building Engine")
                if not goes_on:
                    return None
            try:
                behaviour.while_building()
                self._logger.log(Severity.WARNING, "a word of warning")
            except BaseException:  # noqa: BLE001 - as the bindings do: "Exception caught in log()"
                behaviour.asked["swallowed"] = True
            if behaviour.build_error:
                self._logger.log(Severity.ERROR, behaviour.build_error)
                return None
            return IHostMemory(MAGIC + network.model.SerializeToString())

    return (Builder,)


def _parser(module: Any, version: str, behaviour: Behaviour) -> tuple[type, ...]:
    class OnnxParser:
        def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
            self._network = network

        def parse(self, model: bytes, path: str | None = None) -> bool:
            self._network.model.ParseFromString(model)
            return not behaviour.parser_errors

        @property
        def num_errors(self) -> int:
            return len(behaviour.parser_errors)

        def get_error(self, index: int) -> ParserError:
            return ParserError(*behaviour.parser_errors[index])

    return (OnnxParser,)


def _runtime(module: Any, version: str, behaviour: Behaviour) -> tuple[type, ...]:
    class IExecutionContext:
        def __init__(self) -> None:
            self.shape: tuple[int, ...] = ()
            self.addresses: dict[str, int] = {}

        def set_input_shape(self, name: str, shape: Dims) -> bool:
            self.shape = shape
            return True

        def set_tensor_address(self, name: str, memory: int) -> bool:
            self.addresses = {**self.addresses, name: memory}
            return True

        def execute_async_v3(self, stream_handle: int) -> bool:
            if behaviour.kernel is None:
                return False
            behaviour.kernel(self, stream_handle)
            return True

    class EngineInspector:
        def __init__(self, model: onnx.ModelProto) -> None:
            self.execution_context: IExecutionContext | None = None
            self._model = model

        def get_engine_information(self, format: Any) -> str:
            assert self.execution_context is not None, "types need shapes"
            behaviour.asked["input_shape"] = self.execution_context.shape
            return behaviour.inspector or inspector_json(self._model, version)

    class ICudaEngine:
        def __init__(self, model: onnx.ModelProto) -> None:
            self._model = model

        @property
        def num_io_tensors(self) -> int:
            return len(self._model.graph.input) + len(self._model.graph.output)

        def get_tensor_name(self, index: int) -> str:
            tensors = (*self._model.graph.input, *self._model.graph.output)
            return str(tensors[index].name)

        def create_execution_context(self) -> IExecutionContext | None:
            return IExecutionContext() if behaviour.has_memory else None

        def create_engine_inspector(self) -> EngineInspector:
            return EngineInspector(self._model)

    class Runtime:
        def __init__(self, logger: ILogger) -> None:
            if not behaviour.starts:
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self._logger = logger
            behaviour.asked.setdefault("loggers", []).append(logger)
            self.engine_host_code_allowed = False

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
            behaviour.asked["host_code"] = self.engine_host_code_allowed
            content = bytes(serialized_engine)
            if behaviour.load_error or not content.startswith(MAGIC):
                damaged = "Serialization assertion plan->header.magicTag == rt::kPLAN_MAGIC_TAG failed."
                self._logger.log(Severity.ERROR, behaviour.load_error or damaged)
                return None
            return ICudaEngine(onnx.load_model_from_string(content[len(MAGIC) :]))

    return (IExecutionContext, EngineInspector, ICudaEngine, Runtime)


def inspector_json(model: onnx.ModelProto, version: str) -> str:
    """Every layer of a model in INT8, in the schema of a version."""
    text = "Thirty-two wide channel vectorized row major Int8 format"
    apart = {"Format": "Thirty-two wide channel vectorized row major format", "Datatype": "Int8"}
    types = apart if version == "11.4" else {"Format/Datatype": text}
    layers = [
        {
            "Name": f"{node.input[1]} + {node.name}",
            "LayerType": "CaskConvolution" if node.op_type == "Conv" else "MatrixMultiply",
            "Inputs": [{"Name": node.input[0], "Dimensions": [1, 4, 8, 8], **types}],
            "Outputs": [{"Name": node.output[0], "Dimensions": [1, 4, 8, 8], **types}],
            "Weights": {"Type": "Int8", "Count": 16},
            "TacticName": f"double_i8i8_{node.name}",
            **({} if version == "8.6" else {"Metadata": f"[ONNX Layer: {node.name}]"}),
        }
        for node in model.graph.node
        if node.op_type in ("Conv", "Gemm", "MatMul")
    ]
    ends = {"I/O Tensors": [{"Name": "x"}]} if version == "11.4" else {"Bindings": ["x"]}
    return json.dumps({"Layers": layers, **ends})
