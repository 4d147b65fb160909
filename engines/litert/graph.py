"""What a LiteRT interpreter holds while it lives: tensors with their scales, operators, and what a delegate took."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from engines.base import Array, EngineError

RUNTIME = f"ai-edge-litert {version('ai-edge-litert')}"
DELEGATE = "DELEGATE"

# Optimisation -> whose kernels run: XNNPACK's where it has them, LiteRT's own, or the plain loops of its reference.
RESOLVERS = {
    "all": OpResolverType.AUTO,
    "basic": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    "disabled": OpResolverType.BUILTIN_REF,
}


@dataclass(frozen=True)
class Tensor:
    """A tensor of a live interpreter: ``real = scale * (code - zero)``.

    Args:
        index: its number in the interpreter.
        name: as the converter wrote it.
        dtype: NumPy's name.
        shape: as it is allocated.
        signature: the same with ``None`` where the file accepts any length.
        scales: of its codes, one or one per channel; none of a tensor of floats or of plain integers.
        zeros: as many zero points.
    """

    index: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    signature: tuple[int | None, ...]
    scales: tuple[float, ...]
    zeros: tuple[int, ...]

    @property
    def is_quantised(self) -> bool:
        """Whether its integers stand for real numbers."""
        return bool(self.scales) and np.dtype(self.dtype).kind != "f"

    def codes(self, values: Array) -> Array:
        """Real numbers as the tensor stores them: rounded halves to even, as ONNX's QuantizeLinear does."""
        if not self.is_quantised or values.dtype == np.dtype(self.dtype):
            return values
        limits = np.iinfo(self.dtype)
        rounded = np.rint(values / np.float32(self.scales[0])) + self.zeros[0]
        codes: Array = np.clip(rounded, limits.min, limits.max).astype(self.dtype)
        return codes

    def reals(self, codes: Array) -> Array:
        """What is stored as float32; an array of floats is handed through."""
        if not self.is_quantised:
            return codes
        return (codes.astype(np.float32) - self.zeros[0]) * np.float32(self.scales[0])

    def describe(self) -> dict[str, Any]:
        """Element type, scale and zero point as JSON."""
        return {"dtype": self.dtype, "scale": list(self.scales), "zero_point": list(self.zeros)}


@dataclass(frozen=True)
class Operator:
    """An operator of the file, such as ``CONV_2D``, with the numbers of its tensors; a left-out input has none."""

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class Graph:
    """Look-ups in an interpreter that has allocated its tensors.

    Attributes:
        tensors: number -> tensor.
        operators: of the file, in its order.
        makers: number of a tensor -> the operator that makes it.
        delegated: the numbers of all tensors that a delegate reads: the constants of what it took over are among them.
    """

    def __init__(self, interpreter: Interpreter) -> None:
        self.tensors = {tensor.index: tensor for tensor in map(_tensor, interpreter.get_tensor_details())}
        # The public methods do not tell operators; these are what TensorFlow's own quantisation debugger reads.
        nodes = [
            Operator(each["op_name"], _numbers(each["inputs"]), _numbers(each["outputs"]))
            for each in interpreter._get_ops_details()
        ]
        self.operators = tuple(node for node in nodes if node.name != DELEGATE)
        self.delegated = {number for node in nodes if node.name == DELEGATE for number in node.inputs}
        self.makers = {number: operator for operator in self.operators for number in operator.outputs}
        self.inputs = tuple(map(_tensor, interpreter.get_input_details()))
        self.outputs = tuple(map(_tensor, interpreter.get_output_details()))

    def is_delegated(self, constant: int) -> bool:
        """Whether a delegate reads a weight, or what the weight is unpacked from."""
        maker = self.makers.get(constant)
        return constant in self.delegated or (maker is not None and self.is_delegated(maker.inputs[0]))

    def read(self, operator: Operator) -> Iterator[Tensor]:
        """The tensors that an operator reads."""
        return (self.tensors[number] for number in operator.inputs if number in self.tensors)


def interpreter_from_file(path: Path, optimisation: str = "disabled", threads: int = 1) -> Interpreter:
    """An interpreter with its tensors allocated.

    Args:
        optimisation: a key of `RESOLVERS`.

    Raises:
        EngineError: no such kernels, or LiteRT refuses the file.
    """
    if optimisation not in RESOLVERS:
        raise EngineError(
            f"LiteRT has no option engine_optimisation = {optimisation!r}; choose one of {', '.join(RESOLVERS)}"
        )
    try:
        interpreter = Interpreter(str(path), experimental_op_resolver_type=RESOLVERS[optimisation], num_threads=threads)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise EngineError(f"{RUNTIME} cannot open {path}: {str(error).strip()}") from error
    return interpreter


def _tensor(details: dict[str, Any]) -> Tensor:
    quantisation = details["quantization_parameters"]
    shape = _numbers(details["shape"])
    signature = _numbers(details.get("shape_signature", ())) or shape
    return Tensor(
        index=details["index"],
        name=details["name"],
        dtype=np.dtype(details["dtype"]).name,
        shape=shape,
        signature=tuple(length if length > 0 else None for length in signature),
        scales=tuple(float(scale) for scale in quantisation["scales"]),
        zeros=_numbers(quantisation["zero_points"]),
    )


def _numbers(array: Any) -> tuple[int, ...]:
    return tuple(int(number) for number in array)
