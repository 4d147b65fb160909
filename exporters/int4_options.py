"""What can be asked of INT4, and what each target refuses: before any runtime is needed."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from exporters.base import ExportError

BLOCKS = (32, 64, 128)
ACCURACY_LEVELS = (0, 4)
RESTS = ("float", "int8")
ORT_CPU, TENSORRT = "ort-cpu", "tensorrt"
TARGETS = (ORT_CPU, TENSORRT)
# TensorRT, documentation of quantised types: blocks of 64 or 128 weights, zero points of 0.
TENSORRT_BLOCKS = (64, 128)


class MethodEntry(NamedTuple):
    """One row: where the function is, whether it looks at pictures, and what it does."""

    target: str
    needs_pictures: bool
    about: str


METHODS = {
    "rtn": MethodEntry("exporters.blocks:rtn", False, "round to nearest; the range of each block"),
    "hqq": MethodEntry("exporters.blocks:hqq", False, "half-quadratic: least |error| ** 0.7, which forgives outliers"),
    "awq-clip": MethodEntry("exporters.blocks:awq_clip", True, "of eleven ranges, the least error of the output"),
}


@dataclass(frozen=True)
class Int4Options:
    """What becomes of a model's weights.

    Args:
        block: 32, 64 or 128 weights share a scale.
        symmetric: whether they share no zero point.
        method: row of `METHODS`.
        accuracy_level: what ONNX Runtime does to activations: 0 leaves them in float, 4 allows INT8.
        rest: "float" or "int8": what becomes of every other layer.
        pointwise: whether convolutions of 1 x 1 pixels are rewritten as MatMul and become INT4 too. It makes the file
            smaller and, as measured on ONNX Runtime's CPU provider, slower and less accurate (`docs/design.md`).

    Raises:
        ExportError: a value is none of these.
    """

    block: int = 32
    symmetric: bool = True
    method: str = "rtn"
    accuracy_level: int = 0
    rest: str = "float"
    pointwise: bool = False

    def __post_init__(self) -> None:
        for name, known in (
            ("block", BLOCKS),
            ("method", tuple(METHODS)),
            ("accuracy_level", ACCURACY_LEVELS),
            ("rest", RESTS),
            ("symmetric", (True, False)),
            ("pointwise", (True, False)),
        ):
            _one_of(name, getattr(self, name), known)


def check_target(target: str, options: Int4Options) -> None:
    """See that a target takes the options.

    Raises:
        ExportError: there is no such target, or it does not.
    """
    _one_of("target", target, TARGETS)
    if target != TENSORRT:
        return
    if options.block not in TENSORRT_BLOCKS:
        raise ExportError(f"block: TensorRT takes 64 or 128 for INT4; got {options.block}")
    if not options.symmetric:
        raise ExportError("symmetric: TensorRT takes INT4 with zero points of 0 only; got False")
    if options.accuracy_level:
        raise ExportError(
            f"accuracy_level: it belongs to ONNX Runtime's MatMulNBits; for tensorrt expected 0, got "
            f"{options.accuracy_level}"
        )


def _one_of(name: str, value: object, known: Sequence[object]) -> None:
    if value in known and type(value) is type(known[0]):
        return
    near = difflib.get_close_matches(str(value), [str(each) for each in known], n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ExportError(f"{name}: expected one of {', '.join(map(str, known))}; got {value!r}{hint}")
