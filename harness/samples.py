"""Samples: a folder of pictures in ImageFolder layout, one folder per class, still encoded."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from engines.artifact import Artifact
from harness.errors import HarnessError
from harness.progress import Progress

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
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

    def read(self) -> bytes:
        """The encoded picture. Decoding is a step like any other, because decoders differ."""
        return self.path.read_bytes()


@dataclass(frozen=True)
class SampleSet:
    """Samples in the order in which they are taken, and the hash of what they are."""

    folder: Path
    samples: tuple[Sample, ...]

    def fingerprint(self, progress: Progress | None = None) -> str:
        """A hash over ids, labels and contents: equal exactly when the set is the same."""
        digest = hashlib.blake2b(digest_size=16)
        ordered = sorted(self.samples, key=lambda sample: sample.id)
        for sample in ordered if progress is None else progress.over("hash pictures", ordered):
            content = hashlib.blake2b(sample.read(), digest_size=16).hexdigest()
            digest.update(f"{sample.id}\0{sample.label}\0{content}\n".encode())
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
        Sample(path.relative_to(folder).as_posix(), path, labels[name])
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

    By name where the artifact declares its classes; through ImageNet's list where all folders are WordNet ids;
    else by sorted order, if there are exactly as many folders as classes.
    """
    count = artifact.class_count
    if not names:
        raise HarnessError(f"{folder} has no class folders; expected {folder.name}/CLASS/PICTURE")
    if artifact.classes is not None:
        return _labels_in(names, artifact.classes, folder, f"the classes that {artifact.path.name} declares")
    if all(WORDNET_ID.fullmatch(name) for name in names):
        labels = _labels_in(names, imagenet_wordnet_ids(), folder, "the 1,000 classes of ImageNet-1k")
        if max(labels.values()) >= count:
            worst = max(labels, key=lambda name: labels[name])
            raise HarnessError(
                f"{folder}: {worst} is class {labels[worst]} of ImageNet-1k, but {artifact.path.name} has only "
                f'{count} outputs; list the model\'s classes in its sidecar under "classes"'
            )
        return labels
    if len(names) != count:
        raise HarnessError(
            f"{folder} has {len(names)} class folders, but {artifact.path.name} has {count} classes; name the "
            f'folders by WordNet id, or list the model\'s classes in its sidecar under "classes"'
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


def _order(seed: int, sample_id: str) -> bytes:
    return hashlib.blake2b(f"order:{seed}:{sample_id}".encode(), digest_size=16).digest()
