"""Samples: the labelled pictures of a data set, still encoded, in the order in which they are taken."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from engines.artifact import Artifact
from harness.errors import HarnessError
from harness.labels import indices_from_labels
from harness.progress import Progress
from harness.registry import source_of_pictures
from harness.sources.base import Locator
from harness.sources.label_file import labelled

STORED_EXTENSIONS = (".JPEG", ".png")
UNREADABLE = "unreadable"
UNLABELLED = -1


@dataclass(frozen=True)
class Sample:
    """One encoded picture, wherever it is.

    Args:
        id: its name in the data set, with forward slashes; stable under sorting and limits.
        locator: where its bytes are.
        label: the index of its class among the model's outputs; `UNLABELLED` where that is not asked for.
    """

    id: str
    locator: Locator
    label: int

    def read(self, folder: str = "") -> bytes:
        """The encoded picture. Decoding is a step like any other, because decoders differ.

        Args:
            folder: read the copy of the same id below this folder instead; `qharness corrupt` may have added an
                extension to its name.

        Raises:
            OSError: it cannot be read.
        """
        if not folder:
            return self.locator.read()
        copies = [Path(folder, self.id + added) for added in ("", *STORED_EXTENSIONS)]
        return next((copy for copy in copies if copy.exists()), copies[0]).read_bytes()


@dataclass(frozen=True)
class Grey:
    """Where a picture is that is in no file: 500 x 375 pixels of one grey. A JPEG: some decoders read nothing else."""

    @property
    def order(self) -> tuple[Any, ...]:
        return ()

    def read(self) -> bytes:
        """The encoded picture."""
        stored = io.BytesIO()
        Image.fromarray(np.full((375, 500, 3), 128, np.uint8)).save(stored, format="JPEG")
        return stored.getvalue()


# For trying things out, without a picture of the user's.
SYNTHETIC = Sample("synthetic", Grey(), 0)


@dataclass(frozen=True)
class SampleSet:
    """Samples in the order in which they are taken, and the hash of what they are.

    Args:
        source: the path or pattern that the user gave.
        samples: the pictures.
    """

    source: str
    samples: tuple[Sample, ...]

    def contents(self, progress: Progress | None = None) -> dict[str, str]:
        """Sample id -> hash of the encoded bytes; "unreadable" for a picture that cannot be read."""
        stored = sorted(self.samples, key=lambda sample: sample.locator.order)
        samples = stored if progress is None else progress.over("hash pictures", stored)
        contents = {sample.id: _content(sample) for sample in samples}
        return {sample.id: contents[sample.id] for sample in self.samples}

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


def samples_from_data(data: str, labels: str, artifact: Artifact, seed: int) -> SampleSet:
    """Every picture of a data set, labelled for this model, in a random order fixed by the seed.

    The order makes every first N pictures a fair draw from all classes.

    Args:
        data: what any row of `harness.sources.SOURCES` reads.
        labels: a file of `harness.sources.label_file`, or "" where the data set has labels itself.

    Raises:
        HarnessError: no such data, no pictures, a picture without a label, or classes that are not the model's.
    """
    found = source_of_pictures(data)(data)
    if labels:
        found = labelled(found, labels)
    bare = [each.name for each in found if each.label is None]
    if bare:
        raise HarnessError(
            f"{data}: {len(bare)} of {len(found)} pictures have no label, the first is {bare[0]}; put them into class "
            f"folders, or give a file of labels with --labels"
        )
    indices = indices_from_labels([each.label for each in found if each.label is not None], artifact, labels or data)
    known = [Sample(each.name, each.locator, indices[each.label]) for each in found if each.label is not None]
    return _drawn(data, known, seed)


def unlabelled_from_data(data: str, seed: int) -> SampleSet:
    """Every picture of a data set in a random order fixed by the seed, for what needs no labels.

    Raises:
        HarnessError: no such data, or no pictures.
    """
    found = source_of_pictures(data)(data)
    return _drawn(data, [Sample(each.name, each.locator, UNLABELLED) for each in found], seed)


def _drawn(data: str, samples: Sequence[Sample], seed: int) -> SampleSet:
    ids: set[str] = set()
    for sample in samples:
        if sample.id in ids:
            raise HarnessError(f"{data} names {sample.id} twice; name every picture once")
        ids.add(sample.id)
    return SampleSet(data, tuple(sorted(samples, key=lambda sample: _order(seed, sample.id))))


def _content(sample: Sample) -> str:
    try:
        return hashlib.blake2b(sample.read(), digest_size=16).hexdigest()
    except OSError:
        return UNREADABLE


def _order(seed: int, sample_id: str) -> bytes:
    return hashlib.blake2b(f"order:{seed}:{sample_id}".encode(), digest_size=16).digest()
