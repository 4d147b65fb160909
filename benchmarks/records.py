"""A million records: written as a run writes them, the writer killed in the middle and continued, then the report."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks.figure import Figure
from harness.demo.embedded import demo_recipe
from harness.meter import Meter
from harness.progress import Progress
from harness.record import Record, logit_distances, scores
from harness.report.build import report_from_store
from harness.report.write import write_reports
from harness.samples import Sample
from harness.session import execute
from harness.slices import Slice, slices_from_samples
from harness.sources.storage import Extent
from harness.speed import Speed, Staff
from harness.store import Store

PICTURES = 50_000  # as many as ImageNet's validation set has
NOISES = ("clean", "gaussian_noise", "fog:3", "brightness:3", "contrast:3", "jpeg_compression:3")
ENGINES = ("ort-cpu:fp32", "ort-cpu:integer")
CELLS = 20
CLASSES = 16
STAGES = ("read", "decode", "resize", "crop", "sensor", "normalise", "layout")
AIM_SECONDS = 10.0
SEED = 0


def measure(folder: Path) -> Figure:
    """Twenty cells of 50,000 pictures."""
    store = _begun(folder)
    parts = len(_slices(store))
    started = time.perf_counter()
    killed_at = _write_and_kill(store, parts // 2)
    rows: list[dict[str, str | float]] = [_row(f"write until killed, at part {killed_at} of {parts}", started)]
    started = time.perf_counter()
    _write_rest(store)
    rows.append(_row("continue and write the rest", started))
    records, pairs = store.query("select count(*), count(distinct (cell, sample)) from records")[0]
    if not records == pairs == CELLS * PICTURES:
        raise RuntimeError(f"expected {CELLS * PICTURES} records; got {records}, {pairs} of them different")
    started = time.perf_counter()
    report = report_from_store(store)
    built = time.perf_counter()
    rows.append(_row("report: aggregate", started))
    write_reports(report, store)
    rows.append(_row("report: write HTML, Markdown and JSON", built))
    took = sum(float(row["seconds"]) for row in rows[2:])
    return Figure(
        "A million records",
        rows,
        f"{records:,} records in {parts} parts, none lost and none double after the kill; the report over them takes "
        f"{took:.1f} s, the aim is under {AIM_SECONDS:.0f} s.",
    )


def _row(what: str, started: float) -> dict[str, str | float]:
    return {"what": what, "seconds": round(time.perf_counter() - started, 2)}


def _begun(folder: Path) -> Store:
    """A run of so many pictures that has measured none of them yet, with the header of a real, small one."""
    recipe = replace(demo_recipe(), noise=NOISES, engines=ENGINES, limit=2)
    execute(recipe, folder / "records-few", Speed(workers=0, callers=1), Progress())
    few, many = Store(folder / "records-few"), Store(folder / "records")
    identity = few.read_json("run.json")["identity"]
    identity["data"]["pictures"] = PICTURES
    many.create()
    many.claim(identity)
    many.write_json("prepared.json", few.read_json("prepared.json"))
    return many


def _samples(store: Store) -> list[Sample]:
    """Named as ImageNet's are, in a random order, as a run takes them."""
    pictures = store.read_json("run.json")["identity"]["data"]["pictures"]
    order = np.random.default_rng(SEED).permutation(pictures)
    return [
        Sample(f"n{number % 1000:08d}/ILSVRC2012_val_{number:08d}.JPEG", Extent(""), int(number) % CLASSES)
        for number in order
    ]


def _slices(store: Store) -> list[Slice]:
    conditions = store.read_json("run.json")["identity"]["conditions"]
    return slices_from_samples(_samples(store), len(conditions))


def _write_and_kill(store: Store, parts: int) -> int:
    """Write in another process, which is killed as soon as so many parts are there; returns how many there are."""
    process = get_context("spawn").Process(target=_write, args=(store.folder,))
    process.start()
    while process.is_alive() and len(store.parts()) < parts:
        time.sleep(0.01)
    process.kill()
    process.join()
    if process.exitcode != -signal.SIGKILL:
        raise RuntimeError(f"the writer was to be killed, but it exited with {process.exitcode}")
    return len(store.parts())


def _write_rest(store: Store) -> None:
    process = get_context("spawn").Process(target=_write, args=(store.folder,))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"the writer exited with {process.exitcode}")


def _write(folder: Path) -> None:
    """Write what is missing, as a run does."""
    store = Store(folder)
    conditions = store.read_json("run.json")["identity"]["conditions"]
    engine = ENGINES[0].partition(":")[0]
    missing = [each for each in _slices(store) if not store.has_part(each.index, engine)]
    cells = [list(each["cells"].values()) for each in conditions]
    meter = Meter()
    for piece in missing:
        with meter.engine(ENGINES[0]):
            records = _records(piece, cells)
        meter.prepared(dict.fromkeys(STAGES, 0.1))
        told = {"pictures": len(piece.samples), "engines": [engine], "batch": 4, "trials": []}
        store.write_part(piece.index, engine, records, {**told, **asdict(Staff(0, 1)), **meter.lap()})


def _records(piece: Slice, cells: Sequence[Sequence[str]]) -> list[Record]:
    """Synthetic answers, scored as real ones are; the second version is a little off the first."""
    generator = np.random.default_rng((SEED, piece.index))
    shape = (len(piece.samples), len(cells), CLASSES)
    logits = generator.normal(size=shape).astype(np.float32)
    logits[np.arange(len(piece.samples)), :, [each.label for each in piece.samples]] += 2.5
    off = logits + generator.normal(0, 0.1, shape).astype(np.float32)
    records = []
    for sample, original, moved in zip(piece.samples, logits, off, strict=True):
        labels = [sample.label] * len(cells)
        distances = logit_distances(moved, original, "logits")
        fp32 = scores(original, labels, "logits")
        integer = [
            {**fields, "from_fp32": distance}
            for fields, distance in zip(scores(moved, labels, "logits"), distances, strict=True)
        ]
        for keys, answers in zip(cells, zip(fp32, integer, strict=True), strict=True):
            for key, fields in zip(keys, answers, strict=True):
                records.append(Record(key, sample.id, sample.label, "JPEG RGB", **fields))
    return records
