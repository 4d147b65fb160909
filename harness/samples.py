"""Samples: a folder of pictures in ImageFolder layout, one folder per class, still encoded."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from engines.artifact import Artifact
from harness.errors import HarnessError
from harness.progress import Progress

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
STORED_EXTENSIONS = (".JPEG", ".png")
IMAGENET_CLASSES = 1000
UNREADABLE = "unreadable"
WORDNET_ID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class Sample:
    """One picture on disk.

    Args:
        id: its path below the data folder, with forward slashes; stable under sorting and limits.
        path: the file.
        label: the index of its class among the model's outputs.
    """

    id: str
    path: Path
    label: int

    def read(self, folder: str = "") -> bytes:
        """The encoded picture. Decoding is a step like any other, because decoders differ.

        Args:
            folder: read the copy of the same id below this folder instead; `qharness corrupt` may have added an
                extension to its name.
        """
        if not folder:
            return self.path.read_bytes()
        copies = [Path(folder, self.id + added) for added in ("", *STORED_EXTENSIONS)]
        return next((copy for copy in copies if copy.exists()), copies[0]).read_bytes()


@dataclass(frozen=True)
class SampleSet:
    """Samples in the order in which they are taken, and the hash of what they are."""

    folder: Path
    samples: tuple[Sample, ...]

    def contents(self, progress: Progress | None = None) -> dict[str, str]:
        """Sample id -> hash of the file's bytes; "unreadable" for a file that cannot be read."""
        samples = self.samples if progress is None else progress.over("hash pictures", self.samples)
        return {sample.id: _content(sample) for sample in samples}

    def fingerprint(self, contents: Mapping[str, str] | None = None) -> str:
        """A hash over ids, labels and contents: equal exactly when the set is the same.

        Args:
            contents: what `contents` returned, where it is known already.
        """
        known = self.contents() if contents is None else contents
        digest = hashlib.blake2b(digest_size=16)
        for sample in sorted(self.samples, key=lambda sample: sample.id):
            digest.update(f"{sample.id}\0{sample.label}\0{known[sample.id]}\n".encode())
        return digest.hexdigest()


def samples_from_folder(folder: Path, artifact: Artifact, seed: int) -> SampleSet:
    """Every picture below ``folder``, labelled for this model, in a random order fixed by the seed.

    The order makes every first N pictures a fair draw from all classes.

    Raises:
        HarnessError: no such folder, no class folders, no pictures, or classes that are not the model's.
    """
    if not folder.is_dir():
        raise HarnessError(f"there is no data folder {folder}")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    labels = labels_from_names(names, artifact, folder)
    samples = [
        Sample(sample_id(path, folder), path, labels[name])
        for name in names
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in EXTENSIONS and path.is_file()
    ]
    if not samples:
        raise HarnessError(
            f"{folder} holds no pictures in class folders; expected {folder.name}/CLASS/PICTURE with one of "
            f"{', '.join(EXTENSIONS)}"
        )
    return SampleSet(folder, tuple(sorted(samples, key=lambda sample: _order(seed, sample.id))))


def labels_from_names(names: Sequence[str], artifact: Artifact, folder: Path) -> dict[str, int]:
    """Class folder -> index among the model's outputs.

    By name where the artifact declares its classes; through ImageNet's list where all folders are WordNet ids and
    the model has its 1,000 classes; else by sorted order, if there are exactly as many folders as classes.
    """
    count = artifact.class_count
    if not names:
        raise HarnessError(f"{folder} has no class folders; expected {folder.name}/CLASS/PICTURE")
    if artifact.classes is not None:
        return _labels_in(names, artifact.classes, folder, f"the classes that {artifact.path.name} declares")
    if count == IMAGENET_CLASSES and all(WORDNET_ID.fullmatch(name) for name in names):
        return _labels_in(names, imagenet_wordnet_ids(), folder, "the 1,000 classes of ImageNet-1k")
    if len(names) != count:
        raise HarnessError(
            f"{folder} has {len(names)} class folders, but {artifact.path.name} has {count} classes; list the "
            f'model\'s classes in their order in its sidecar under "classes"'
        )
    return {name: index for index, name in enumerate(names)}


def imagenet_wordnet_ids() -> tuple[str, ...]:
    """The WordNet ids of ImageNet-1k in the order of the classes."""
    return tuple((files("harness") / "data" / "imagenet_wordnet_ids.txt").read_text().split())


def _labels_in(names: Sequence[str], classes: Sequence[str], folder: Path, what: str) -> dict[str, int]:
    index = {name: position for position, name in enumerate(classes)}
    strangers = [name for name in names if name not in index]
    if strangers:
        raise HarnessError(
            f"{folder}: {len(strangers)} of {len(names)} class folders are not among {what}, "
            f"the first is {strangers[0]!r}; move them elsewhere"
        )
    return {name: index[name] for name in names}


def _content(sample: Sample) -> str:
    try:
        return hashlib.blake2b(sample.read(), digest_size=16).hexdigest()
    except OSError:
        return UNREADABLE


def sample_id(path: Path, folder: Path) -> str:
    """The path below the folder as text; bytes that are no UTF-8 are written as escapes."""
    return os.fsencode(path.relative_to(folder).as_posix()).decode(errors="backslashreplace")


def _order(seed: int, sample_id: str) -> bytes:
    return hashlib.blake2b(f"order:{seed}:{sample_id}".encode(), digest_size=16).digest()
