"""The whole line against the script that anybody would write, and against the least that the cores must do.

Everything happens in one run, a few pictures each in turn. "bound" is what preparing a picture once under every
condition and asking every engine takes, each measured alone with all cores at it, over the cores: no line can do less.
With an engine that does nothing, rates are compared with a bare loop before and behind the run, and processor time with
processor time: what the line adds to a picture is too little to see in wall time on a machine that others use too.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.figure import Figure
from benchmarks.null_engine import use_null_engine
from benchmarks.peers import installed, python_of
from benchmarks.resnet50 import write_resnet50
from engines.base import Array, Engine, call
from harness.batches import Bundle, Preparation, Preparer
from harness.memory import keep_freed_memory
from harness.meter import usable_cores
from harness.plan import Plan, plan
from harness.prepare import Contender, prepare
from harness.progress import Progress
from harness.recipe import Recipe
from harness.registry import engine_opener
from harness.report.timing import timing_from_parts
from harness.samples import Sample
from harness.session import execute
from harness.speed import Speed
from harness.store import Store
from noise.corrupt import corruption_names

CORES = usable_cores()
BATCH = 4
SPEED = Speed(batch=BATCH)


@dataclass(frozen=True)
class Setting:
    """One line of the table.

    Args:
        name: what is measured.
        recipe: model, pictures, noises and engines.
        script_pictures: how many the scripts get; they are slow.
    """

    name: str
    recipe: Recipe
    script_pictures: int


def measure(folder: Path) -> Figure:
    """MobileNetV2 under all nineteen corruptions, ResNet-50 under three, and an engine that does nothing."""
    settings = _settings(folder)
    rows = [_row(each, folder / str(index)) for index, each in enumerate(settings)]
    rows.append({**dict.fromkeys(rows[0], "-"), **_null_row(settings[0].recipe, folder / "null")})
    sentences = [f"{row['what']}: {row['sentence']}" for row in rows]
    return Figure("Pipeline", [{k: v for k, v in row.items() if k != "sentence"} for row in rows], " ".join(sentences))


def _settings(folder: Path) -> list[Setting]:
    data = Path(os.environ["QHARNESS_DATA"])
    pictures = str(data / "imagenet" / "photos")
    nineteen = [name for name in corruption_names() if name != "procedural_frost"]  # a stand-in, the twentieth
    every = ("clean", *(f"{name}:3" for name in nineteen))
    some = ("clean", "gaussian_noise:3", "glass_blur:3", "jpeg_compression:3")
    engines = ("ort-cpu:fp32", "ort-cpu:integer")
    common = Recipe(
        model="", data=pictures, engines=engines, calibration_pictures=32, frost_overlays=str(data / "frost")
    )
    resnet50 = write_resnet50(folder / "resnet50.onnx")
    mobilenet = str(data / "models" / "mobilenetv2_tf.onnx")
    return [
        Setting("MobileNetV2, 20 conditions", replace(common, model=mobilenet, noise=every, limit=240), 4),
        Setting("ResNet-50, 4 conditions", replace(common, model=str(resnet50.path), noise=some, limit=60), 10),
    ]


def _row(setting: Setting, folder: Path) -> dict[str, str | float]:
    made = plan(setting.recipe)
    conditions, engines = len(made.distinct), len(made.versions)
    ours = _pictures_per_second(setting.recipe, folder / "run")
    contenders = prepare(made, folder / "artifacts", Progress())
    bound = CORES / (_prepare_seconds(made) + _infer_seconds(made, contenders))
    row: dict[str, str | float] = {
        "what": setting.name,
        "qharness evaluations/s": round(ours * conditions * engines, 1),
        "bound / qharness": round(bound / ours, 3),
    }
    sentence = f"{bound / ours:.2f} times the bound"
    for peer in installed("torch", "onnxruntime"):
        theirs = _script_pictures_per_second(made, contenders, peer, setting.script_pictures)
        row[f"qharness / script with {peer}"] = round(ours / theirs, 2)
        sentence += f", {ours / theirs:.1f} times as fast as the script with {peer}"
    print(row, flush=True)
    return {**row, "sentence": sentence + "."}


def _pictures_per_second(recipe: Recipe, folder: Path) -> float:
    return float(timing_from_parts(steady_parts(recipe, folder))["pictures_per_second"])


def steady_parts(recipe: Recipe, folder: Path, speed: Speed = SPEED) -> list[dict[str, Any]]:
    """What a run says of its time while it measures: calibration, checks and reports happen once, and the first half
    of its parts holds warming up and the choice between staffs.
    """
    execute(recipe, folder, speed, Progress())
    parts = Store(folder).timings()
    return parts[len(parts) // 2 :]


def _prepare_seconds(made: Plan) -> float:
    """Seconds of one core for one picture under every condition, all cores at work."""
    return CORES / bare(made, made.scored.samples[: 8 * CORES]).pictures_per_second


@dataclass(frozen=True)
class Bare:
    """What a bare loop does in one process per core: no queue, no engine, no record."""

    pictures_per_second: float
    cpu_seconds_per_picture: float


def bare(made: Plan, samples: Sequence[Sample]) -> Bare:
    shares = [samples[core::CORES] for core in range(CORES)]
    with ProcessPoolExecutor(CORES, get_context("spawn")) as pool:
        job = partial(_bare_loop, made.preparation(BATCH))
        list(pool.map(job, [share[:4] for share in shares]))  # imports, compilation
        spans = list(pool.map(job, shares))
    rate = sum(len(share) / wall for share, (wall, _) in zip(shares, spans, strict=True))
    return Bare(rate, sum(cpu for _, cpu in spans) / len(samples))


def _bare_loop(preparation: Preparation, samples: Sequence[Sample]) -> tuple[float, float]:
    """Seconds on the clock, and of processor time."""
    cv2.setNumThreads(1)
    keep_freed_memory()
    preparer, place = Preparer(preparation), preparation.place()
    started, started_cpu = time.perf_counter(), time.process_time()
    for sample in samples:
        for _ in preparer.batches(Bundle(0, (sample,)), lambda: place):
            pass
    return time.perf_counter() - started, time.process_time() - started_cpu


def _infer_seconds(made: Plan, contenders: Sequence[Contender]) -> float:
    """Seconds of one core for all answers about one picture, all cores at work."""
    preparation = made.preparation(BATCH)
    bundle = Bundle(0, made.scored.samples[:1])
    batches = [each.inputs.copy() for each in Preparer(preparation).batches(bundle, preparation.place)]
    seconds = 0.0
    for contender in contenders:
        with closing(engine_opener(contender.engine)(contender.artifact, contender.options)) as engine:
            feeds = [{contender.artifact.input.name: inputs} for inputs in batches if len(inputs)]
            seconds += _with_all_cores(partial(_ask, engine, feeds))
    return seconds


def _ask(engine: Engine, feeds: Sequence[Mapping[str, Array]]) -> None:
    for feed in feeds:
        call(engine, feed)


def _with_all_cores(job: Callable[[], object]) -> float:
    """Seconds that one call of a job takes while every core does the same."""

    def repeat(_: int) -> tuple[int, float]:
        job()
        started = time.perf_counter()
        count = 0
        while count < 3 or time.perf_counter() < started + 2.0:
            job()
            count += 1
        return count, time.perf_counter() - started

    with ThreadPoolExecutor(CORES) as pool:
        done = list(pool.map(repeat, range(CORES)))
    return float(np.mean([seconds / count for count, seconds in done]))


def _script_pictures_per_second(made: Plan, contenders: Sequence[Contender], peer: str, pictures: int) -> float:
    """Pictures under all conditions by all engines per second, in the peer's environment."""
    samples = made.scored.samples[:pictures]
    wish = {
        "models": [str(contender.artifact.path) for contender in contenders],
        "pictures": [str(Path(made.scored.source, sample.id)) for sample in samples],
        "corruptions": [condition.noise for condition in made.distinct],
        "severity": 3,
        "batch": BATCH,
        "workers": CORES,
        "threads": CORES,
        "resize": 256,
        "size": made.row_shape[-1],
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
    script = str(Path(__file__).with_name("script.py"))
    done = subprocess.run(
        [python_of(peer), "-W", "ignore", script, json.dumps(wish)], check=True, stdout=subprocess.PIPE, text=True
    )
    return len(samples) / float(done.stdout.splitlines()[-1])


def _null_row(recipe: Recipe, folder: Path) -> dict[str, str | float]:
    """An engine that answers at once: what the line itself costs."""
    use_null_engine()
    every = ("clean", *dict.fromkeys(name.partition(":")[0] for name in recipe.noise if name != "clean"))
    recipe = replace(recipe, engines=("null:fp32",), noise=every, limit=0)
    made = plan(recipe)
    samples = made.scored.samples[len(made.scored.samples) // 2 :]  # those behind the run's warming up
    before = bare(made, samples)
    parts = steady_parts(recipe, folder / "run")
    behind = bare(made, samples)
    ours = float(timing_from_parts(parts)["pictures_per_second"])
    loop = (before.pictures_per_second + behind.pictures_per_second) / 2
    bare_cpu = (before.cpu_seconds_per_picture + behind.cpu_seconds_per_picture) / 2
    cpu = sum(part["cpu_seconds"] for part in parts) / sum(part["pictures"] for part in parts)
    overhead_us = 1e6 * (cpu - bare_cpu) / len(made.distinct)
    return {
        "what": f"null engine, {len(made.distinct)} conditions",
        "qharness evaluations/s": round(ours * len(made.distinct), 1),
        "bound / qharness": round(loop / ours, 3),
        "sentence": f"{ours / loop:.2f} of a bare loop's rate ({before.pictures_per_second:.1f} pictures/s before, "
        f"{behind.pictures_per_second:.1f} behind), {overhead_us:.0f} microseconds of processor time per picture and "
        f"condition more than it.",
    }
