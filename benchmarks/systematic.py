"""Decoders, colours and resizes: pictures per second, and how far their pictures are from those of Pillow.

Needs real photographs in ``QHARNESS_DATA``. Decoders are compared on the files as they are and on copies with
sub-sampled colour (4:2:0, quality 90), for there the up-sampling counts too. One thread; requests go round.
"""

from __future__ import annotations

import io
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.figure import Figure
from engines.base import EngineUnavailable
from harness.memory import keep_freed_memory
from harness.registry import noise_settings, step_function
from noise.base import Pipeline, Step, StepFunction, Unavailable, differences
from noise.presets import pipeline_from_preset

PICTURES = 60
ROUNDS = 3
STAGES = ("decode", "colour", "resize")
ABSENT = "-"

Picture = npt.NDArray[np.uint8]
Row = Mapping[str, str | int | float]
RNG = np.random.default_rng(0)  # no step of these stages draws


def measure(folder: Path) -> Figure:
    """Every setting of the three noises on the same photographs."""
    del folder
    cv2.setNumThreads(1)
    keep_freed_memory()
    paths = sorted((Path(os.environ["QHARNESS_DATA"]) / "imagenet" / "photos").rglob("*.*"))
    files = [path.read_bytes() for path in paths[:: max(1, len(paths) // PICTURES)]][:PICTURES]
    pipeline = pipeline_from_preset("imagenet", size=224)
    decoded = [_picture(files[index], pipeline) for index in range(len(files))]
    inputs: dict[str, Sequence[Any]] = {"decode": files, "colour": decoded, "resize": decoded}
    subsampled = [_stored(picture) for picture in decoded]
    rows: list[Row] = []
    for stage in STAGES:
        reference = _function(pipeline.step_of(stage, "compares")) if stage != "colour" else _nothing
        functions = _functions(stage, pipeline)
        paces = _paces({name: f for name, f in functions.items() if callable(f)}, inputs[stage])
        for name, function in functions.items():
            if isinstance(function, str):
                rows.append(_row(f"{stage}:{name}", "not run", *[ABSENT] * 4))
                continue
            mean, largest, resized = _levels(function, reference, inputs[stage])
            fine = f"{_levels(function, reference, subsampled)[0]:.3f}" if stage == "decode" else ABSENT
            rows.append(_row(f"{stage}:{name}", f"{paces[name]:.0f}", f"{mean:.3f}", str(largest), fine, str(resized)))
        absent = {name: why for name, why in functions.items() if isinstance(why, str)}
        print(*(f"{stage}:{name} is not run: {why}" for name, why in absent.items()), sep="\n")
    return Figure(
        f"Decoders, colours and resizes on {len(files)} photographs, one thread", rows, _verdict(rows, len(files))
    )


def _row(*cells: str) -> Row:
    keys = (
        "step",
        "pictures/s",
        "mean grey levels from Pillow",
        "largest",
        "mean, colour sub-sampled",
        "pictures of another size",
    )
    return dict(zip(keys, cells, strict=True))


def _verdict(rows: Sequence[Row], pictures: int) -> str:
    ran = [row for row in rows if row["pictures/s"] != "not run"]
    parts = []
    for stage in STAGES:
        mine = [row for row in ran if str(row["step"]).startswith(f"{stage}:")]
        fastest = max(mine, key=lambda row: float(row["pictures/s"]))
        farthest = max(mine, key=lambda row: float(row["mean grey levels from Pillow"]))
        parts.append(
            f"{fastest['step']} is the fastest with {fastest['pictures/s']} pictures/s, {farthest['step']} the "
            f"farthest from Pillow with {farthest['mean grey levels from Pillow']} grey levels"
        )
    return (
        f"{'; '.join(parts)}. Reference: Pillow's decoder, the picture before the colour step, and Pillow's bilinear "
        f"resize to 256; differences are over all channels of those of the {pictures} pictures that keep their size."
    )


def _functions(stage: str, pipeline: Pipeline) -> dict[str, StepFunction | str]:
    """Setting -> its function, or why there is none."""
    functions: dict[str, StepFunction | str] = {}
    for name, setting in noise_settings(stage).items():
        (difference,) = differences(setting)
        changed = pipeline.with_step(difference).step_of(stage, "measures")
        try:
            functions[name] = _function(changed)
        except (EngineUnavailable, Unavailable) as error:
            functions[name] = str(error)
    return functions


def _function(step: Step) -> StepFunction:
    return step_function(step)


def _nothing(picture: Picture, rng: np.random.Generator) -> Picture:
    del rng
    return picture


def _picture(data: bytes, pipeline: Pipeline) -> Picture:
    return np.asarray(_function(pipeline.step_of("decode", "measures"))(data, RNG))


def _stored(picture: Picture) -> bytes:
    stored = io.BytesIO()
    Image.fromarray(picture).save(stored, "JPEG", quality=90, subsampling=2)
    return stored.getvalue()


def _levels(function: StepFunction, reference: StepFunction, inputs: Sequence[Any]) -> tuple[float, int, int]:
    """Mean and largest absolute difference, and how many pictures have another size and are left out of both."""
    total, count, largest, resized = 0, 0, 0, 0
    for value in inputs:
        picture, expected = function(value, RNG), reference(value, RNG)
        if picture.shape != expected.shape:
            resized += 1
            continue
        difference = np.abs(picture.astype(np.int16) - expected)
        total, count = total + int(difference.sum()), count + difference.size
        largest = max(largest, int(difference.max()))
    return total / count, largest, resized


def _paces(functions: Mapping[str, StepFunction], inputs: Sequence[Any]) -> dict[str, float]:
    """Pictures per second, of some rounds the fastest."""
    best = dict.fromkeys(functions, math.inf)
    for _ in range(ROUNDS):
        for name, function in functions.items():
            best[name] = min(best[name], _seconds(function, inputs))
    return {name: len(inputs) / seconds for name, seconds in best.items()}


def _seconds(function: Callable[[Any, np.random.Generator], Any], inputs: Sequence[Any]) -> float:
    started = time.perf_counter()
    for value in inputs:
        function(value, RNG)
    return time.perf_counter() - started
