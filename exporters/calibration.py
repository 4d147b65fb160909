"""Calibration with ONNX Runtime: pictures go through the float model, the ranges of its activations stay."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
from onnxruntime.quantization.calibrate import create_calibrator
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from engines.artifact import Artifact, sha256_of
from engines.ort import OrtFailure
from exporters.base import Calibration, ExportError

Picture = npt.NDArray[np.float32]

# Everything that ONNX Runtime can compute on integers, sorted: a set's order would change from run to run.
OPERATORS = sorted({*QLinearOpsRegistry, *QDQRegistry})


def fold_constants(artifact: Artifact, path: Path) -> None:
    """Write the model with batch norms folded into convolutions and constants computed.

    Raises `ExportError` for a model that ONNX Runtime refuses.

    A batch norm left on its own would be quantised as a layer of its own, between a convolution and the ReLU
    that belongs to it: the convolution's integer kernel would then not be followed by an integer ReLU.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    # From memory, so that weights beside the model end up inside the folded file.
    model = onnx.load(str(artifact.path)).SerializeToString()
    try:
        ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except OrtFailure as error:
        raise ExportError(f"ONNX Runtime {ort.__version__} cannot open {artifact.path}: {error}") from error


def calibrate_minmax(
    folded: Path, input_name: str, pictures: Iterable[Picture], identity: Mapping[str, str]
) -> Calibration:
    """The lowest and highest value of every activation over all pictures.

    Args:
        folded: the model, batch norms folded (`fold_constants`).
        input_name: the model's input.
        pictures: float32 [1, 3, H, W] or [1, H, W, 3], one at a time; memory does not grow with their number.
        identity: ``picture_list`` and ``preprocessing``: hashes of what the pictures are.
    """
    reader = _Reader(input_name, pictures)
    with tempfile.TemporaryDirectory() as folder, quiet_quantiser():
        calibrator = create_calibrator(
            str(folded),
            OPERATORS,
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=CalibrationMethod.MinMax,
        )
        calibrator.collect_data(reader)
        ranges = calibrator.compute_data().data
    return Calibration(
        ranges={
            name: (np.asarray(data.range_value[0]).item(), np.asarray(data.range_value[1]).item())
            for name, data in ranges.items()
        },
        method="minmax",
        pictures=reader.count,
        model_sha256=sha256_of(folded),
        picture_list=identity["picture_list"],
        preprocessing=identity["preprocessing"],
        made_by={"onnxruntime": ort.__version__},
    )


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """ONNX Runtime's calibrators pull pictures from an object of this shape."""

    def __init__(self, name: str, pictures: Iterable[Picture]) -> None:
        self.name, self.pictures, self.count = name, iter(pictures), 0

    def get_next(self) -> dict[str, Picture] | None:
        picture = next(self.pictures, None)
        if picture is None:
            if not self.count:
                raise ExportError("calibration needs at least one picture; got none")
            return None
        self.count += 1
        return {self.name: picture}


@contextlib.contextmanager
def quiet_quantiser() -> Iterator[None]:
    """Silence the quantiser's advice, on the root logger, to fold constants: that has been done."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
