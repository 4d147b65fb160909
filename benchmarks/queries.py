"""What an attack by queries costs beside the engine: queries/s of Square against the engine's images/s.

The engine is a real INT8 one on ONNX Runtime's CPU provider. Pictures are ImageNet validation pictures.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.figure import Figure
from engines.artifact import Artifact
from engines.base import Engine, EngineOptions, call
from engines.onnx_file import artifact_from_onnx
from engines.ort import open_cpu
from exporters.base import Quantisation, Source
from exporters.calibration import calibrate
from exporters.qdq import onnx_qdq
from exporters.ranges.minmax import MinMax
from exporters.targets import ort_cpu
from noise.adversarial.base import Labels, Pictures, budget_from_text, pictures_from_levels
from noise.adversarial.ledger import Ledger
from noise.adversarial.query.square import square
from noise.presets import NORMALISATIONS

# network -> the row of `NORMALISATIONS` that it was trained with
MODELS = {"mobilenetv2_tf": "tensorflow", "resnet18": "imagenet"}
BUDGET = budget_from_text("2/255")
BATCHES = (8, 16)
PICTURES, QUERIES, CALIBRATED = 16, 24, 16
THREADS = 2
ROUNDS = 3

Row = dict[str, str | int | float]


@dataclass
class Asked:
    """An INT8 engine as a ledger takes it; notes every row that it is asked.

    Args:
        engine: float32 [n, 3, H, W], normalised.
        scale, shift: of normalisation, ``picture * scale - shift``, [3, 1, 1].
    """

    engine: Engine
    scale: npt.NDArray[np.float32]
    shift: npt.NDArray[np.float32]

    def __call__(self, pictures: Pictures) -> npt.NDArray[np.float32]:
        ready = pictures * self.scale
        ready -= self.shift
        outputs = call(self.engine, {self.engine.inputs[0].name: ready}).outputs
        return np.asarray(outputs[self.engine.outputs[0].name])


def measure(folder: Path) -> Figure:
    """Square on both networks; needs ``QHARNESS_DATA``."""
    data = Path(os.environ["QHARNESS_DATA"])
    pictures = _pictures(data)
    rows = [row for name in MODELS for row in _rows(data, name, pictures, folder)]
    worst = max(float(row["overhead %"]) for row in rows)
    return Figure(
        "Queries",
        rows,
        f"Square at {BUDGET.name} asks an INT8 engine at most {worst:g} % more slowly than the engine answers pictures "
        f"that are ready. {PICTURES} pictures, {QUERIES} queries for each at most, {THREADS} threads; rounds of engine "
        f"and attack alternate, and the figure is the ratio of the medians of {ROUNDS}. Full batches: share of calls "
        "with as many rows as the batch has room for. Asked twice: share of forward passes about a picture that was "
        "asked about before; the Adversarial Robustness Toolbox's Square asks about half of its questions twice (its "
        "issue 2307).",
    )


def _pictures(data: Path) -> Pictures:
    """Middles of the first files, float32 [n, 3, 224, 224] in [0, 1]."""
    files = sorted((data / "imagenet" / "val227").rglob("*.*"))
    cut = [np.asarray(Image.open(file).convert("RGB"))[1:225, 1:225] for file in files[: PICTURES + CALIBRATED]]
    return pictures_from_levels(np.ascontiguousarray(np.stack(cut).transpose(0, 3, 1, 2)))


def _rows(data: Path, name: str, pictures: Pictures, folder: Path) -> Iterator[Row]:
    steps = NORMALISATIONS[MODELS[name]][1]
    levels, mean, std = (np.array(steps[key], np.float32) for key in ("scale", "mean", "std"))
    scale, shift = (np.float32(255) / levels / std)[:, None, None], (mean / std)[:, None, None]
    fp32 = artifact_from_onnx(data / "models" / f"{name}.onnx")
    int8 = _int8(fp32, pictures[PICTURES:] * scale - shift, folder / f"{name}.int8.onnx")
    with closing(open_cpu(int8, EngineOptions(threads=THREADS))) as engine:
        asked = Asked(engine, scale, shift)
        for batch in BATCHES:
            yield {"network": name, "batch": batch, **_speeds(asked, pictures[:PICTURES], batch)}


def _int8(fp32: Artifact, inputs: npt.NDArray[np.float32], path: Path) -> Artifact:
    calibration = calibrate(fp32, (row[None] for row in inputs), Source("minmax", {}, "", {}), MinMax)
    return onnx_qdq(fp32, calibration, Quantisation("ort-cpu"), ort_cpu(), path)


def _speeds(asked: Asked, pictures: Pictures, batch: int) -> Row:
    labels = np.concatenate([asked(rows) for rows in np.split(pictures, PICTURES // batch)]).argmax(axis=1)
    ready = pictures[:batch] * asked.scale - asked.shift
    engine_s, attack_s = [], []
    for _ in range(ROUNDS):
        ledger, seconds = _attacked(asked, pictures, labels, batch)
        attack_s.append(seconds / ledger.queries)
        started = time.perf_counter()
        for _ in range(ledger.queries // batch):
            call(asked.engine, {asked.engine.inputs[0].name: ready})
        engine_s.append((time.perf_counter() - started) / (ledger.queries // batch * batch))
    images, queries = 1 / float(np.median(engine_s)), 1 / float(np.median(attack_s))
    return {
        "images/s": round(images, 1),
        "queries/s": round(queries, 1),
        "overhead %": round(100 * (images / queries - 1), 1),
        **_waste(asked, pictures, labels, batch),
    }


def _attacked(asked: Asked, pictures: Pictures, labels: Labels, batch: int) -> tuple[Ledger, float]:
    ledger = Ledger(asked, batch)
    started = time.perf_counter()
    rngs = [np.random.default_rng([0, index]) for index in range(len(pictures))]
    square(BUDGET, queries=QUERIES)(ledger, pictures, labels, rngs)
    return ledger, time.perf_counter() - started


def _waste(asked: Asked, pictures: Pictures, labels: Labels, batch: int) -> Row:
    """Counted outside of the ledger, on what the engine is really given."""
    seen: list[bytes] = []
    sizes: list[int] = []

    def watched(rows: Pictures) -> npt.NDArray[np.float32]:
        seen.extend(row.tobytes() for row in rows)
        sizes.append(len(rows))
        return asked(rows)

    rngs = [np.random.default_rng([0, index]) for index in range(len(pictures))]
    square(BUDGET, queries=QUERIES)(Ledger(watched, batch), pictures, labels, rngs)
    return {
        "full batches %": round(100 * float(np.mean(np.array(sizes) == batch)), 1),
        "asked twice %": round(100 * (1 - len(set(seen)) / len(seen)), 2),
    }
