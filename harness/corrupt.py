"""Corrupt: a data set becomes a folder of corrupted pictures, laid out as ImageNet-C is.

::

    OUT/NAME/SEVERITY/CLASS/FILE   written whole, then renamed into place
    OUT/manifest.jsonl             what the files depend on; then one line for each picture, behind its files

The pixels are those that a run with the same seed draws. It may be killed at any moment and continued by the same
command.
"""

from __future__ import annotations

import hashlib
import io
from collections import deque
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from harness.conditions import Condition
from harness.environment import environment, installed_version
from harness.errors import HarnessError, unknown
from harness.manifest import MANIFEST, MANIFEST_VERSION, Entry, Manifest, whole_file
from harness.memory import keep_freed_memory
from harness.preprocess import compile_tree
from harness.progress import Progress
from harness.registry import NOISE_TABLE, noise_settings
from harness.samples import unlabelled_from_data
from harness.sources.base import Locator
from harness.speed import Speed
from harness.store import Store
from noise.base import SMALLEST, Pipeline, Step
from noise.presets import pipeline_from_preset

SEVERITIES = (1, 2, 3, 4, 5)
JPEG, PNG = "jpeg", "png"

# format -> what Pillow is told, and the extensions that a name may have; another name gets the first appended.
# ImageNet-C was published as such JPEGs.
FORMATS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    JPEG: ({"format": "JPEG", "quality": 85, "optimize": True}, (".JPEG", ".jpeg", ".jpg")),
    PNG: ({"format": "PNG"}, (".png",)),
}


@dataclass(frozen=True)
class Request:
    """What is to be drawn.

    Args:
        noise: corruptions, each ``NAME`` (at ``severities``) or ``NAME:SETTING``.
        severities: of ``SEVERITIES``.
        seed: of every random draw.
        size: height and width of the corrupted pictures, in pixels.

    Raises:
        HarnessError: nothing is named, or the seed or the size is out of range.
    """

    noise: tuple[str, ...]
    severities: tuple[int, ...] = SEVERITIES
    seed: int = 0
    size: int = 224

    def __post_init__(self) -> None:
        if not self.noise:
            raise HarnessError("--noise needs at least one name; leave it out for all corruptions")
        if self.seed < 0:
            raise HarnessError(f"seed must not be negative; got {self.seed}")
        if self.size < SMALLEST:
            raise HarnessError(f"size must be at least {SMALLEST} pixels for corruptions to work; got {self.size}")

    @property
    def pipeline(self) -> Pipeline:
        """From the encoded picture to uint8 [size, size, 3] RGB."""
        steps = pipeline_from_preset("imagenet", size=self.size).steps
        return Pipeline(tuple(step for step in steps if step.stage in ("decode", "resize", "crop")))

    def conditions(self) -> tuple[Condition, ...]:
        """Every corruption at every severity, in the order in which they were named.

        Raises:
            HarnessError: no such noise or setting, or a noise that is no corruption.
        """
        chosen: dict[str, Condition] = {}
        for name in self.noise:
            noise, _, setting = name.partition(":")
            steps = corruption_steps(noise)
            if not steps:
                known = ", ".join(each for each in NOISE_TABLE.names() if corruption_steps(each))
                raise HarnessError(f"{noise!r} is no corruption; choose from {known}")
            for wanted in [setting] if setting else map(str, self.severities):
                if wanted not in steps:
                    raise unknown(f"setting of {noise!r}", wanted, steps)
                condition = Condition(noise, wanted, self.pipeline.with_step(steps[wanted]))
                chosen.setdefault(condition.name, condition)
        return tuple(chosen.values())


@dataclass(frozen=True)
class Outcome:
    """What a folder of corrupted pictures came to.

    ``changed`` counts the pictures that were drawn, or whose line of the manifest is new, ``first_failure`` says
    which failed and why.
    """

    pictures: int
    conditions: int
    changed: int
    failures: int
    first_failure: str
    manifest: Path


def corruption_steps(noise: str) -> dict[str, Step]:
    """The settings of a noise that is a corruption; none of one that is not."""
    settings = noise_settings(noise)
    return {name: step for name, step in settings.items() if isinstance(step, Step) and step.stage == "sensor"}


def corrupt_pictures(data: str, out: Path, request: Request, form: str, speed: Speed, progress: Progress) -> Outcome:
    """Draw every picture of a data set under every condition, or what is missing of that.

    Args:
        data: what any row of `harness.sources.SOURCES` reads; labels are not needed.
        form: a key of `FORMATS`.

    Raises:
        HarnessError: nothing to draw, a place that cannot be used, a full disk. What was drawn is kept.
    """
    work = Work(request, form, out)
    samples = unlabelled_from_data(data, request.seed).samples
    pictures = {sample.id: sample.locator for sample in sorted(samples, key=lambda sample: sample.id)}
    _check_names(pictures, form)
    _make_folder(out, data)
    cv2.setNumThreads(1)  # workers are the parallelism; OpenCV's own threads would fight them for the cores
    keep_freed_memory()
    changed, failures, first_failure = 0, 0, ""
    with Store(out).locked(), progress.task("corrupt", total=len(pictures)) as advance:
        manifest = Manifest(Store(out), work.header())
        with closing(_in_order(work, pictures, manifest, speed.threads)) as results:
            for known, entry in results:
                if entry != known:
                    manifest.append(entry)
                drawn = entry is not known and "error" not in entry
                changed += drawn or entry != known
                if "error" in entry:
                    failures += 1
                    first_failure = first_failure or f"{entry['picture']}: {entry['error']}"
                advance()
        manifest.sort()
    return Outcome(len(pictures), len(work.places), changed, failures, first_failure, manifest.path.resolve())


class Work:
    """What is done with one picture, and the tree of steps that does it."""

    def __init__(self, request: Request, form: str, out: Path) -> None:
        self.request, self.form, self.out = request, form, out
        self.conditions = request.conditions()
        self.tree = compile_tree([each.pipeline for each in self.conditions])
        self.places = [f"{each.noise}/{each.setting}" for each in self.conditions]

    def header(self) -> Entry:
        """Everything that the bytes of the files depend on, but for the pictures."""
        return {
            "manifest": MANIFEST_VERSION,
            "qharness": installed_version("qharness"),
            "seed": self.request.seed,
            "size": self.request.size,
            "format": FORMATS[self.form][0],
            "preprocessing": self.request.pipeline.describe(),
            "noise": {each.name: each.pipeline.steps[-1].describe() for each in self.conditions},
            "environment": environment(),
        }

    def draw(self, picture: str, source: Locator, known: Entry | None) -> Entry:
        """The picture's line of the manifest, after all its files are in place; ``known`` where they were already."""
        try:
            data = source.read()
        except OSError as error:
            return self._failed(picture, f"read: {error}")
        digest = hashlib.sha256(data).hexdigest()
        if known and known.get("source_sha256") == digest and self._intact(known["files"]):
            return known
        files: dict[str, str] = {}
        for prepared in self.tree.walk(data, picture, self.request.seed):
            if prepared.error is not None:
                return self._failed(picture, prepared.error)
            name = f"{self.places[prepared.condition]}/{stored_name(picture, self.form)}"
            content = _encoded(prepared.tensor, self.form)
            with whole_file(self.out / name) as file:
                file.write(content)
            files[name] = hashlib.sha256(content).hexdigest()
        return {"picture": picture, "source_sha256": digest, "files": files}

    def _intact(self, files: Mapping[str, str]) -> bool:
        """Whether every file is there with the bytes that the manifest knows."""
        try:
            return all(
                hashlib.sha256((self.out / name).read_bytes()).hexdigest() == digest for name, digest in files.items()
            )
        except OSError:
            return False

    def _failed(self, picture: str, error: str) -> Entry:
        """Its line, and none of its files: a picture is there under all conditions or under none."""
        for place in self.places:
            (self.out / place / stored_name(picture, self.form)).unlink(missing_ok=True)
        return {"picture": picture, "error": error}


def stored_name(picture: str, form: str) -> str:
    """The name under which a picture is stored: its id, with an extension of the format appended where it has none.

    >>> stored_name("cat/a.jpg", "jpeg"), stored_name("cat/a.jpg", "png")
    ('cat/a.jpg', 'cat/a.jpg.png')
    """
    extensions = FORMATS[form][1]
    return picture if picture.lower().endswith(tuple(map(str.lower, extensions))) else picture + extensions[0]


def _in_order(
    work: Work, pictures: Mapping[str, Locator], manifest: Manifest, workers: int
) -> Generator[tuple[Entry | None, Entry], None, None]:
    """For every picture the line that is there and the line that is true, with few pictures in flight."""
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(workers))
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        known = ((manifest.entry(picture), picture, source) for picture, source in pictures.items())
        started = ((before, pool.submit(work.draw, picture, source, before)) for before, picture, source in known)
        flying = deque(islice(started, 2 * workers))
        while flying:
            before, future = flying.popleft()
            yield before, future.result()
            flying.extend(islice(started, 1))


def _encoded(picture: npt.NDArray[Any] | None, form: str) -> bytes:
    stored = io.BytesIO()
    Image.fromarray(np.asarray(picture, np.uint8)).save(stored, **FORMATS[form][0])
    return stored.getvalue()


def _check_names(pictures: Mapping[str, Locator], form: str) -> None:
    """Refuse pictures that would be stored under one name, such as a.png and a.png.JPEG, or outside of the folder."""
    owners: dict[str, str] = {}
    for picture in pictures:
        if picture.startswith("/") or ".." in picture.split("/"):
            raise HarnessError(f"{picture} is named by a path outside of the data set, so it has no place in -o")
        name = stored_name(picture, form)
        if owners.setdefault(name, picture) != picture:
            raise HarnessError(f"{owners[name]} and {picture} would both be stored as {name}; rename one")


def _make_folder(out: Path, data: str) -> None:
    place, source = out.resolve(), Path(data).resolve()
    if place == source or source in place.parents:
        raise HarnessError(f"{out} lies in {data}, whose pictures are to be read; choose another folder with -o")
    if out.exists() and not out.is_dir():
        raise HarnessError(f"{out} is a file; choose another folder with -o")
    if out.exists() and not (out / MANIFEST).exists() and any(not each.name.startswith(".") for each in out.iterdir()):
        raise HarnessError(f"{out} is not empty and has no {MANIFEST}; choose another folder with -o")
    out.mkdir(parents=True, exist_ok=True)
