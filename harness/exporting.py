"""Exporting: the doors to the exporters' floor, each opened when it is asked for: heavy packages stand behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from engines.artifact import Artifact
from exporters.base import Calibration, Observer, Picture, Quantisation, Source
from exporters.comparison import Exported
from exporters.export_options import ExportOptions
from exporters.improvements.base import Improvement, Material
from exporters.int4_options import Int4Options
from exporters.qat.options import Surroundings, Wish
from exporters.sources.base import Load, Network
from harness.errors import HarnessError
from harness.registry import IMPROVEMENT_TABLE, MODEL_TABLE, TARGET_TABLE, import_target


class Calibrate(Protocol):
    """`exporters.calibration.calibrate`."""

    def __call__(
        self, artifact: Artifact, pictures: Iterable[Picture], source: Source, new_observer: Callable[[], Observer]
    ) -> Calibration: ...


class WriteQdq(Protocol):
    """`exporters.qdq.onnx_qdq`; ``target`` is what `quantisation_target` returns."""

    def __call__(
        self, artifact: Artifact, calibration: Calibration, quantisation: Quantisation, target: Any, path: Path
    ) -> Artifact: ...


def improvements(names: Sequence[str]) -> dict[str, Improvement]:
    """Name -> the improvement that it stands for, in the order in which they are applied.

    Raises:
        HarnessError, ExportError: no such improvement, a number that it refuses, or one is named twice.
    """
    made = {text: IMPROVEMENT_TABLE.maker(text)() for text in names}
    rows = [text.partition(":")[0] for text in names]
    twice = next((row for row in rows if rows.count(row) > 1), None)
    if twice:
        raise HarnessError(f"the improvement {twice!r} is named twice; name it once")
    order = IMPROVEMENT_TABLE.names()
    return {text: made[text] for text in sorted(made, key=lambda text: order.index(text.partition(":")[0]))}


class ImproveFloat(Protocol):
    """`exporters.improve.improved_float`."""

    def __call__(
        self, artifact: Artifact, improvements: Mapping[str, Improvement], material: Material, path: Path
    ) -> Artifact: ...


class ImproveQuantised(Protocol):
    """`exporters.improve.improved_quantised`."""

    def __call__(
        self,
        quantised: Artifact,
        artifact: Artifact,
        improvements: Mapping[str, Improvement],
        material: Material,
        path: Path,
    ) -> Artifact: ...


def float_improver() -> ImproveFloat:
    """The function that rewrites a float model before calibration."""
    return cast(ImproveFloat, import_target("improving", "exporters.improve:improved_float", "cpu"))


def quantised_improver() -> ImproveQuantised:
    """The function that changes a Q/DQ file after calibration."""
    return cast(ImproveQuantised, import_target("improving", "exporters.improve:improved_quantised", "cpu"))


def calibrator() -> Calibrate:
    """The function that measures ranges; it needs ONNX Runtime."""
    return cast(Calibrate, import_target("calibration", "exporters.calibration:calibrate", "cpu"))


def qdq_writer() -> WriteQdq:
    """The function that writes Q/DQ files; it needs ONNX Runtime's quantiser."""
    return cast(WriteQdq, import_target("quantisation", "exporters.qdq:onnx_qdq", "cpu"))


class WriteInt4(Protocol):
    """`exporters.int4.int4_weights`."""

    def __call__(
        self,
        artifact: Artifact,
        target: str,
        options: Int4Options,
        path: Path,
        pictures: Iterable[Picture] | None = None,
        quantise_rest: Callable[[Artifact, Path], Artifact] | None = None,
    ) -> Artifact: ...


def int4_writer() -> WriteInt4:
    """The function that writes weights in 4 bits; it needs ONNX Runtime."""
    return cast(WriteInt4, import_target("quantisation", "exporters.int4:int4_weights", "cpu"))


def layer_groups(artifact: Artifact) -> dict[str, tuple[str, ...]]:
    """`exporters.qdq.layer_groups`."""
    groups = import_target("quantisation", "exporters.qdq:layer_groups", "cpu")
    return cast("dict[str, tuple[str, ...]]", groups(artifact))


def network_loader(source: str) -> Load:
    """The function that brings a network from a source."""
    return cast(Load, MODEL_TABLE.resolve(source))


class Export(Protocol):
    """`exporters.export.export`."""

    def __call__(self, network: Network, options: ExportOptions, pictures: Any, path: Path) -> Exported: ...


def onnx_exporter() -> Export:
    """The function that writes a network as ONNX; it needs PyTorch and ONNX Runtime."""
    return cast(Export, import_target("export", "exporters.export:export", "torch,cpu"))


def quantisation_target(name: str) -> Any:
    """The `exporters.targets.Target` of a name."""
    return TARGET_TABLE.resolve(name)()


class Train(Protocol):
    """`exporters.qat.job.trained_qdq`; ``method`` is what `TRAINED_TABLE` resolves."""

    def __call__(
        self, artifact: Artifact, calibration: Calibration, wish: Wish, method: Any, around: Surroundings, path: Path
    ) -> Artifact: ...


def trainer() -> Train:
    """The function that trains a model with its rounding on; it needs PyTorch and ONNX Runtime."""
    return cast(Train, import_target("training", "exporters.qat.job:trained_qdq", "torch"))
