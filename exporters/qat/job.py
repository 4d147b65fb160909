"""Job: from a float model and pictures to a trained file that has been seen to say what was trained."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from engines.artifact import Artifact, sidecar_path
from engines.onnx_file import artifact_from_onnx
from exporters.base import Calibration, ExportError, Quantisation
from exporters.folding import folded_model
from exporters.qat.base import Method
from exporters.qat.graph import FakeQuantised, float_constants, layers_from_qdq
from exporters.qat.options import TARGET, TRAINED_ON, Surroundings, Wish
from exporters.qat.start import begin
from exporters.qat.train import Checkpoint, train
from exporters.qat.write import trained_model
from exporters.qdq import onnx_qdq
from exporters.targets import ort_cpu
from exporters.twin.gate import Gate, gate_from_logits
from exporters.written import written_model

COMPARED, AT_ONCE = 200, 32

# The file that training begins with: whatever this processor's sums of two products do, the levels are those asked for.
AS_WIDE_AS_ASKED = Quantisation(TARGET, weight_bits=8)


def trained_qdq(
    artifact: Artifact, calibration: Calibration, wish: Wish, method: Method, around: Surroundings, path: Path
) -> Artifact:
    """Train a model with its rounding on, and write it as Q/DQ with the learned scales for `ort-cpu`.

    The state of the training is kept beside ``path`` until the file is there; the same call goes on from it.

    Args:
        artifact: the float model.
        calibration: of that model: where activations begin.
        wish: what ``method`` is called, bits, and how to train.
        path: of the new file.

    Raises:
        ExportError: the model cannot be trained, the training diverged, or the engine does not say what the trained
            network says; then there is no file.
    """
    _check(artifact)
    with tempfile.TemporaryDirectory() as folder:
        started = onnx_qdq(artifact, calibration, AS_WIDE_AS_ASKED, ort_cpu(), Path(folder) / "started.onnx")
        model = onnx.load(str(started.path))
        floats = float_constants(folded_model(artifact), layers_from_qdq(model.graph))
        network = FakeQuantised(model, floats, method, wish.bits)
        first, _ = around.pictures.take(range(min(len(around.pictures), AT_ONCE)))
        if len(first):
            begin(network, method, torch.from_numpy(first))
        checkpoint = Checkpoint(checkpoint_path(path), _identity(artifact, calibration, wish, around))
        train(network, around.pictures, wish.training, checkpoint, around.watch)
        trained = trained_model(model, network)
        onnx.save(trained, str(started.path))
        sidecar_path(started.path).unlink()
        gate = _gate(network, artifact_from_onnx(started.path), around)
    if not gate.speaks:
        raise ExportError(
            f"no file is written: the engine does not say what was trained: {_compared(gate)}. Where this processor's "
            f"sums saturate (qharness doctor), weights of 7 bits do not"
        )
    written = written_model(trained, artifact, _made_by(artifact, calibration, wish, around, gate), path)
    checkpoint.remove()
    return written


def checkpoint_path(path: Path) -> Path:
    """Where the state of the training that makes ``path`` is kept."""
    return path.with_name(f"{path.name}.training")


def _check(artifact: Artifact) -> None:
    name = artifact.path.name
    if artifact.quantised:
        raise ExportError(f"{name} is quantised already; give the float model that it was made from")
    if artifact.output_kind != "logits":
        raise ExportError(
            f"{name} ends in {artifact.output_kind}; training needs logits: export it without its Softmax"
        )
    if artifact.fixed_batch is not None or artifact.input.dtype != "float32":
        raise ExportError(
            f"{name} takes {artifact.input.dtype} {artifact.input.shape_text}; training needs float32 and a batch of "
            f"any length: export it with a dynamic batch"
        )


def _identity(artifact: Artifact, calibration: Calibration, wish: Wish, around: Surroundings) -> str:
    content = {
        "model": artifact.sha256,
        "calibration": calibration.summary(),
        "wish": wish.describe(),
        "pictures": around.identity,
    }
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


def _gate(network: FakeQuantised, trained: Artifact, around: Surroundings) -> Gate:
    """Whether the engine says what the network says, of some of the pictures."""
    places = range(min(len(around.pictures), COMPARED))
    engine, ours = [], []
    for start in places[::AT_ONCE]:
        inputs, _ = around.pictures.take(places[start : start + AT_ONCE])
        if len(inputs):
            engine.append(around.answers(trained, inputs))
            with torch.no_grad():
                ours.append(network(torch.from_numpy(inputs)).numpy())
    return gate_from_logits(np.concatenate(engine), np.concatenate(ours), quantised=True)


def _compared(gate: Gate) -> str:
    """The gate's numbers, said of a trained network and its engine."""
    found = gate.parity
    return (
        f"trained network and engine name the same class for {found.agreeing} of {found.n} pictures "
        f"({found.agreement:.1%}, needed {gate.threshold:.0%}); their logits differ by {found.mean_error:.2g} on "
        f"average and {found.max_error:.2g} at most, beside a spread of {found.spread:.2g}"
    )


def _made_by(
    artifact: Artifact, calibration: Calibration, wish: Wish, around: Surroundings, gate: Gate
) -> dict[str, Any]:
    return {
        "tool": f"exporters.qat, torch {torch.__version__}",
        "parent_sha256": artifact.sha256,
        "trained": {**wish.describe(), "pictures": len(around.pictures), "picture_list": around.identity},
        "runs_as": wish.bits.runs_as,
        "parity": {**gate.describe(), "reason": _compared(gate)},
        TRAINED_ON: sorted(set(around.contents)),
        "quantisation": {"target": TARGET},
        "calibration": calibration.summary(),
    }
