"""INT8 against FP32 in images per second, on every CPU runtime that is here, in one run."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.figure import Figure
from benchmarks.resnet50 import write_resnet50
from engines.artifact import Artifact
from engines.base import Engine, EngineOptions, EngineUnavailable, call
from engines.onnx_file import artifact_from_onnx
from exporters.base import Quantisation, Source
from exporters.calibration import calibrate
from exporters.qdq import onnx_qdq
from exporters.ranges.minmax import MinMax
from exporters.targets import ort_cpu
from harness.registry import engine_certifier, engine_opener

ENGINES = ("ort-cpu", "openvino")
MODELS = ("resnet18", "mobilenetv2_tf", "squeezenet1.1", "mobilenetv1_0.25_bn")
BATCHES = (1, 8, 32)
THREADS = (1, 2)
ROUNDS = 5
CALIBRATED = 8

Row = Mapping[str, str | int | float]


@dataclass(frozen=True)
class Pair:
    """One network in float and in INT8."""

    name: str
    fp32: Artifact
    int8: Artifact


def measure(folder: Path) -> Figure:
    """ResNet-50 with random weights everywhere; the real networks where ``QHARNESS_DATA`` is set."""
    rows = [row for pair in _pairs(folder) for engine in ENGINES for row in _rows(pair, engine)]
    wanted = [r for r in rows if (r["model"], r["batch"], r["threads"]) == ("resnet50", 8, 1)]
    told = ", ".join(f"{row['INT8 / FP32']} times on {row['engine']}" for row in wanted)
    return Figure(
        "INT8 against FP32",
        rows,
        f"ResNet-50 at batch 8 on one thread: {told}. Rounds of FP32 and INT8 alternate; the figure is the ratio of "
        f"the medians of {ROUNDS} rounds. Integer % is the share of multiply-accumulates on integer kernels, from the "
        f"certificate.",
    )


def _pairs(folder: Path) -> Iterator[Pair]:
    models = {"resnet50": write_resnet50(folder / "resnet50.onnx")}
    data = os.environ.get("QHARNESS_DATA")
    if data:
        models |= {name: artifact_from_onnx(Path(data) / "models" / f"{name}.onnx") for name in MODELS}
    for name, fp32 in models.items():
        calibration = calibrate(fp32, _inputs(fp32, 1, CALIBRATED), Source("minmax", {}, "", {}), MinMax)
        path = folder / f"{name}.int8.onnx"
        yield Pair(name, fp32, onnx_qdq(fp32, calibration, Quantisation("ort-cpu"), ort_cpu(), path))


def _inputs(artifact: Artifact, batch: int, count: int) -> Iterator[npt.NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield rng.standard_normal((batch, *[size or 1 for size in artifact.input.shape[1:]]), dtype=np.float32)


def _rows(pair: Pair, engine: str) -> Iterator[Row]:
    try:
        opened = engine_opener(engine)
    except EngineUnavailable as error:
        print(error)
        return
    (one,) = _inputs(pair.int8, 1, 1)
    proof = engine_certifier(engine)(pair.int8, EngineOptions(), {pair.int8.input.name: one})
    for threads in THREADS:
        options = EngineOptions(threads=threads)
        with closing(opened(pair.fp32, options)) as fp32, closing(opened(pair.int8, options)) as int8:
            for batch in BATCHES:
                before, after = _images_per_s((fp32, int8), pair.fp32, batch)
                yield {
                    "model": pair.name,
                    "engine": engine,
                    "batch": batch,
                    "threads": threads,
                    "FP32 images/s": round(before, 1),
                    "INT8 images/s": round(after, 1),
                    "INT8 / FP32": round(after / before, 2),
                    "integer %": round(100 * (proof.integer_fraction or 0), 1),
                }


def _images_per_s(engines: tuple[Engine, Engine], artifact: Artifact, batch: int) -> tuple[float, float]:
    """The two engines' speeds, their rounds alternating so that both meet the same neighbours on the machine."""
    (inputs,) = _inputs(artifact, batch, 1)
    feeds = {artifact.input.name: inputs}
    seconds: tuple[list[float], list[float]] = ([], [])
    for index in range(ROUNDS + 1):
        for engine, kept in zip(engines, seconds, strict=True):
            started = time.perf_counter()
            call(engine, feeds)
            if index:  # the first call pays for memory
                kept.append(time.perf_counter() - started)
    fp32, int8 = (batch / float(np.median(kept)) for kept in seconds)
    return fp32, int8
