"""The whole line on a GPU: pictures per second from JPEG files to records, against the engine alone.

ResNet-50 in INT8 on TensorRT, in batches of 64. "Alone" is the network by events of the device, with its input there
already: no engine can be fed faster. The pictures are JPEG files of 500 x 375, the usual size of ImageNet's, so
decoding counts; with too few cores for that the line is as fast as they are, and the rows say so.
"""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.figure import Figure
from benchmarks.overhead import WANTED_US, overhead_rows
from benchmarks.pipeline import CORES, bare, steady_parts
from benchmarks.resnet50 import with_classes, write_resnet50
from engines.base import EngineError
from engines.cuda.engine import RingEngine
from engines.cuda.ring import SLOTS
from engines.cuda.transfers import transfers_named
from harness.bench import Load
from harness.demo.embedded import demo_recipe
from harness.device_timing import observe
from harness.plan import plan
from harness.prepare import prepare
from harness.progress import Progress
from harness.recipe import Recipe
from harness.registry import engine_opener
from harness.report.build import report_from_store
from harness.report.timing import timing_from_parts
from harness.speed import Speed
from harness.store import Store

ENGINE = "tensorrt"
BATCH = 64
COPIES = 100  # of the embedded pictures, so that a run takes more than a moment
SIZE = (500, 375)  # width, height
SECONDS = 5.0
WANTED = 0.95


@dataclass(frozen=True)
class Rates:
    """Pictures per second.

    Args:
        alone: of the network, its input on the device.
        fed: of the engine, from page-locked memory of the host, by as many callers as it has slots.
        prepared: of all cores that only prepare.
        whole: of a run, from files to records.
        facts: of the engine.
    """

    alone: float
    fed: float
    prepared: float
    whole: float
    facts: dict[str, Any]


def measure(folder: Path) -> Figure:
    """The line with one worker for each core, and the harness's own time around a call.

    Raises:
        EngineUnavailable: there is no GPU, or no TensorRT.
    """
    transfers_named()
    engine_opener(ENGINE)
    pictures = write_pictures(folder / "pictures", COPIES)
    model = with_classes(write_resnet50(folder / "resnet50.onnx"), pictures)
    recipe = Recipe(
        model=str(model.path),
        data=str(pictures),
        engines=(f"{ENGINE}:integer",),
        noise=("clean",),
        calibration_pictures=64,
    )
    found = rates(recipe, folder / "run", Speed(workers=CORES, callers=SLOTS, batch=BATCH), SECONDS)
    (overhead,) = overhead_rows(folder, (BATCH,))
    return figure(found, float(overhead["call us"]))


def write_pictures(folder: Path, copies: int) -> Path:
    """The embedded pictures in the size of photographs, each under several names."""
    for source in sorted(Path(demo_recipe().data).glob("*/*.jpg")):
        place = folder / source.parent.name
        place.mkdir(parents=True, exist_ok=True)
        first = place / f"{source.stem}_0.jpg"
        with Image.open(source) as picture:
            picture.resize(SIZE, Image.Resampling.BICUBIC).save(first, quality=90)
        for copy in range(1, copies):
            os.link(first, place / f"{source.stem}_{copy}.jpg")
    return folder


def rates(recipe: Recipe, folder: Path, speed: Speed, seconds: float) -> Rates:
    """Run a recipe of one version on an engine on the ring, then measure its parts apart.

    Raises:
        EngineError: it failed on a picture; a rate with failures in it would be none.
    """
    whole = float(timing_from_parts(steady_parts(recipe, folder, speed))["pictures_per_second"])
    failed = report_from_store(Store(folder)).failed_pictures
    if failed:
        raise EngineError(f"{failed} pictures of the run failed, so its rate means nothing; see {folder}")
    made = plan(recipe)
    (contender,) = prepare(made, folder / "artifacts", Progress())
    with closing(contender.open(speed.batch)) as engine:
        assert isinstance(engine, RingEngine)
        seen = observe(engine, contender.artifact, Load(seconds=seconds, streams=speed.batch))
        count = max(1, round(seconds * len(seen.calls_ms) / seen.wall_s))
        alone_ms = engine.resident_ms(speed.batch, count)
        facts = engine.facts()
    fed, _, _ = seen.numbers()["pictures per second"]
    samples = made.scored.samples
    prepared = bare(made, samples[: max(8 * CORES, len(samples) // 4)]).pictures_per_second
    return Rates(1e3 * speed.batch / alone_ms, fed, prepared, whole, facts)


def figure(found: Rates, call_us: float) -> Figure:
    """Rows, and what they come to."""
    least = min(found.alone, found.prepared)
    rows: list[dict[str, str | int | float]] = [
        {"what": "engine alone, its input on the device", "value": round(found.alone), "unit": "pictures/s"},
        {"what": f"engine fed from the host, {SLOTS} callers", "value": round(found.fed), "unit": "pictures/s"},
        {"what": f"preparation alone, {CORES} cores", "value": round(found.prepared), "unit": "pictures/s"},
        {"what": f"line, {CORES} workers, {SLOTS} callers", "value": round(found.whole), "unit": "pictures/s"},
        {"what": f"line / engine alone; wanted: {WANTED}", "value": round(found.whole / found.alone, 3), "unit": ""},
        {"what": "line / the slower of engine and preparation", "value": round(found.whole / least, 3), "unit": ""},
        {"what": f"around a call; wanted: under {WANTED_US}", "value": call_us, "unit": "microseconds"},
    ]
    facts = found.facts
    verdict = (
        f"ResNet-50 in INT8, batches of {BATCH}, on {facts['device']} ({facts['runtime']}, CUDA {facts['cuda']}, "
        f"driver {facts['driver'] or 'unknown'}, {facts['transfers']}): the line reaches "
        f"{found.whole / found.alone:.2f} of the engine alone; wanted: {WANTED}."
    )
    if found.prepared < found.alone:
        verdict += (
            f" {CORES} cores prepare {found.prepared / found.alone:.2f} of what the engine takes: for it to be the "
            f"limit there would have to be {CORES * found.alone / found.prepared:.0f} such cores."
        )
    return Figure("The line on a GPU", rows, verdict)
