"""Q/DQ: one calibration becomes an INT8 file for one target."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from engines.artifact import Artifact, sha256_of, sidecar_path, write_sidecar
from engines.cpu import kernel_class, saturates
from engines.onnx_file import artifact_from_onnx
from exporters.base import Calibration, ExportError, write_calibration
from exporters.calibration import OPERATORS, Picture, calibrate_minmax, fold_constants, quiet_quantiser


@dataclass(frozen=True)
class Target:
    """How a kind of engine wants its integers.

    Args:
        activation: element type of activations.
        weight: element type of weights; one scale per output channel.
        reduce_range: 7-bit weights, for processors whose 8-bit products saturate at 16 bits.
    """

    activation: QuantType
    weight: QuantType
    reduce_range: bool


def target_named(name: str) -> Target:
    """The row of a target; "ort-cpu" looks at this machine's processor."""
    if name != "ort-cpu":
        raise ExportError(f"there is no quantisation target {name!r}; choose from ort-cpu")
    return Target(QuantType.QUInt8, QuantType.QInt8, reduce_range=saturates(kernel_class()))


def int8_for_ort_cpu(
    artifact: Artifact, pictures: Iterable[Picture], identity: Mapping[str, str], path: Path
) -> Artifact:
    """Calibrate a float model on pictures and write its INT8 file for ONNX Runtime's CPU provider.

    Args:
        artifact: the float model.
        pictures: float32 inputs, one at a time.
        identity: ``picture_list`` and ``preprocessing``: hashes of what the pictures are.
        path: of the new file; its sidecar and its calibration are written beside it.
    """
    with tempfile.TemporaryDirectory() as folder:
        folded = Path(folder) / "folded.onnx"
        fold_constants(artifact, folded)
        calibration = calibrate_minmax(folded, artifact.input.name, pictures, identity)
        write_calibration(calibration, path.with_name(f"{artifact.path.stem}.calibration.json"))
        return onnx_qdq(artifact, folded, calibration, "ort-cpu", path)


def onnx_qdq(artifact: Artifact, folded: Path, calibration: Calibration, target: str, path: Path) -> Artifact:
    """Write ``path``: the model with Q/DQ nodes for ``target``, and its sidecar.

    The network's output stays float: rounding the logits to 255 levels would make ties between classes.

    Args:
        artifact: the float model; the new file inherits its preprocessing, classes and output kind.
        folded: the same model, batch norms folded; the calibration's tensors are its.

    Raises:
        ExportError: the calibration was measured on another model.
    """
    if sha256_of(folded) != calibration.model_sha256:
        raise ExportError(f"the calibration was measured on another model than {artifact.path}; calibrate again")
    row = target_named(target)
    ranges = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in calibration.ranges.items()
    }
    with quiet_quantiser():
        quantiser = QDQQuantizer(
            onnx.load(str(folded)),
            per_channel=True,
            reduce_range=row.reduce_range,
            weight_qType=row.weight,
            activation_qType=row.activation,
            tensors_range=TensorsData(CalibrationMethod.MinMax, ranges),
            nodes_to_quantize=[],
            nodes_to_exclude=[],
            op_types_to_quantize=OPERATORS,
            extra_options={},
        )
        quantiser.quantize_model()
        quantiser.model.topological_sort()
    model: onnx.ModelProto = quantiser.model.model
    _float_output(model.graph)
    onnx.checker.check_model(model)
    sidecar_path(path).unlink(missing_ok=True)
    onnx.save(model, str(path))
    written = replace(
        artifact_from_onnx(path),
        preprocessing=artifact.preprocessing,
        classes=artifact.classes,
        output_kind=artifact.output_kind,
        made_by={
            "tool": f"onnxruntime.quantization {ort.__version__}",
            "parent_sha256": artifact.sha256,
            "target": target,
            "activation": str(row.activation),
            "weight": f"{row.weight} per channel",
            "reduce_range": row.reduce_range,
            "calibration": {key: value for key, value in calibration.describe().items() if key != "ranges"},
        },
    )
    write_sidecar(written)
    return written


def _float_output(graph: onnx.GraphProto) -> None:
    """Take the last QuantizeLinear and DequantizeLinear off each output of the graph."""
    makers = {name: node for node in graph.node for name in node.output}
    for output in graph.output:
        dequantise = makers.get(output.name)
        if dequantise is None or dequantise.op_type != "DequantizeLinear":
            continue
        quantise = makers.get(dequantise.input[0])
        if quantise is None or quantise.op_type != "QuantizeLinear":
            continue
        source = quantise.input[0]
        readers = [node for node in graph.node if source in node.input]
        if len(readers) == 1 and source in makers:
            maker = makers[source]
            maker.output[list(maker.output).index(source)] = output.name
            graph.node.remove(quantise)
            graph.node.remove(dequantise)
