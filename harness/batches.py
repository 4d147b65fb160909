"""Batches: pictures become the inputs of engines, a few at a time, the same wherever it happens.

A bundle of pictures is the unit of work. Which rows meet in a batch depends on the bundle alone, so a worker
process, a thread and a repeated run all feed the engines the same arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from harness.preprocess import Tree, compile_tree
from harness.samples import UNREADABLE, Sample
from noise.base import Pipeline
from noise.corruptions.overlays import use_folder
from noise.decode import source_of

Inputs = npt.NDArray[Any]


@dataclass(frozen=True)
class Bundle:
    """Consecutive pictures of one slice of the run.

    Args:
        index: its place among all bundles of this session.
        samples: the pictures.
        fatal: position among them -> why that picture is not to be touched any more.
        attempt: how often it was begun before.
    """

    index: int
    samples: tuple[Sample, ...]
    fatal: Mapping[int, str] = field(default_factory=dict)
    attempt: int = 0


class Row(NamedTuple):
    """What one picture became under one condition.

    Args:
        position: of the picture in its bundle.
        condition: index among the distinct conditions of the plan.
        source: what the file is, such as "JPEG RGB".
        error: what failed, or ``None``.
        same_as: the earlier condition under which the picture became the same input, to the byte; then the batch holds
            no input for this row, and the answer is that one's.
    """

    position: int
    condition: int
    source: str
    error: str | None
    same_as: int | None = None

    @property
    def fed(self) -> bool:
        """Whether the batch holds an input for this row."""
        return self.error is None and self.same_as is None


class Batch(NamedTuple):
    """Rows, and the inputs of those that are fed, in the same order.

    Args:
        number: its place in the bundle.
        rows: at least one, except in a bundle's last batch.
        inputs: [n, ...] as the engine takes it.
        last: whether the bundle ends here.
    """

    number: int
    rows: tuple[Row, ...]
    inputs: Inputs
    last: bool


@dataclass(frozen=True)
class Preparation:
    """Everything that preparing a picture depends on, as data that another process can be sent.

    Args:
        pipelines: of the distinct conditions: folder of pictures -> condition -> pipeline.
        seed: of the run.
        batch: rows in one batch.
        shape: of one row, without the batch axis.
        dtype: of the rows.
        frost_overlays: the folder of ImageNet-C's photographs of frost; "" looks in ``imagecorruptions``.
    """

    pipelines: Mapping[str, Mapping[int, Pipeline]]
    seed: int
    batch: int
    shape: tuple[int, ...]
    dtype: str
    frost_overlays: str = ""

    def trees(self) -> dict[str, Tree]:
        """The pipelines as prefix trees, one per folder: what conditions share is computed once."""
        if self.frost_overlays:
            use_folder(Path(self.frost_overlays))  # this may be another process than the one that planned
        return {folder: compile_tree(list(each.values()), list(each)) for folder, each in self.pipelines.items()}

    def place(self) -> Inputs:
        """Room for one batch."""
        return np.empty((self.batch, *self.shape), self.dtype)


class Preparer:
    """Prepares bundles, with everything compiled.

    Attributes:
        seconds: stage -> seconds spent in it since the last look; always the same dictionary, for walks add to it.
    """

    def __init__(self, preparation: Preparation) -> None:
        self._preparation = preparation
        self._trees = preparation.trees()
        self._comparable = {folder: _comparable(each) for folder, each in preparation.pipelines.items()}
        self._row = np.empty(preparation.shape, preparation.dtype)
        self.seconds: dict[str, float] = {}

    def spent(self) -> dict[str, float]:
        """Stage -> seconds since the last call."""
        spent = dict(self.seconds)
        self.seconds.clear()
        return spent

    def batches(
        self, bundle: Bundle, place: Callable[[], Inputs], begin: Callable[[int], None] = lambda position: None
    ) -> Iterator[Batch]:
        """Every row of a bundle: picture by picture, folder by folder, depth first.

        Args:
            place: gives the memory for one batch, [batch, ...]; called when the first row of a batch is ready.
            begin: is told the position of each picture before it is touched.
        """
        rows: list[Row] = []
        inputs: Inputs | None = None
        filled = number = 0
        for position, sample in enumerate(bundle.samples):
            begin(position)
            for row, tensor in self._rows(position, sample, bundle.fatal.get(position)):
                rows.append(row)
                if tensor is None:
                    continue
                if inputs is None:
                    inputs = place()
                started = perf_counter()
                inputs[filled] = tensor
                filled += 1
                self.seconds["layout"] = self.seconds.get("layout", 0.0) + perf_counter() - started
                if filled == len(inputs):
                    yield Batch(number, tuple(rows), inputs, last=False)
                    rows, inputs, filled, number = [], None, 0, number + 1
        yield Batch(number, tuple(rows), self._nothing() if inputs is None else inputs[:filled], last=True)

    def _nothing(self) -> Inputs:
        preparation = self._preparation
        return np.empty((0, *preparation.shape), preparation.dtype)

    def _rows(self, position: int, sample: Sample, fatal: str | None) -> Iterator[tuple[Row, Inputs | None]]:
        for folder, tree in self._trees.items():
            if fatal is not None:
                yield from _failed(position, tree, fatal)
                continue
            started = perf_counter()
            try:
                data = sample.read(folder)
            except OSError as error:
                yield from _failed(position, tree, f"read: {error}")
                continue
            finally:
                self.seconds["read"] = self.seconds.get("read", 0.0) + perf_counter() - started
            source = source_of(data)
            seen: dict[bytes, int] = {}
            for prepared in tree.walk(data, sample.id, self._preparation.seed, self.seconds):
                condition, tensor, same_as = prepared.condition, prepared.tensor, None
                if tensor is not None and condition in self._comparable[folder]:
                    first = seen.setdefault(self._digest(tensor), condition)
                    tensor, same_as = (tensor, None) if first == condition else (None, first)
                yield Row(position, condition, source, prepared.error, same_as), tensor

    def _digest(self, tensor: Inputs) -> bytes:
        started = perf_counter()
        self._row[:] = tensor
        digest = sha256(self._row.data).digest()  # processors have instructions for it: half a millisecond
        self.seconds["layout"] = self.seconds.get("layout", 0.0) + perf_counter() - started
        return digest


def _comparable(pipelines: Mapping[int, Pipeline]) -> frozenset[int]:
    """Conditions that may make the same input of a picture: several, and without a corruption, which changes all."""
    found = [number for number, each in pipelines.items() if all(step.stage != "sensor" for step in each.steps)]
    return frozenset(found if len(found) > 1 else ())


def _failed(position: int, tree: Tree, error: str) -> Iterator[tuple[Row, None]]:
    for condition in tree.conditions():
        yield Row(position, condition, UNREADABLE, error), None


def pictures_per_bundle(batch: int, conditions: int) -> int:
    """Enough pictures to fill a batch, where one picture's conditions do not."""
    return max(1, batch // max(1, conditions))


def bundles_from_slices(slices: Sequence[Sequence[Sample]], size: int) -> list[Bundle]:
    """All slices cut into bundles. None reaches over the end of its slice, which is stored whole."""
    pieces = (piece[start : start + size] for piece in slices for start in range(0, len(piece), size))
    return [Bundle(index, tuple(piece)) for index, piece in enumerate(pieces)]
