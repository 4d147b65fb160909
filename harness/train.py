"""Train: the pictures of a data set become what a network is trained on, prepared as the model declares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.artifact import Artifact
from engines.base import EngineOptions, call
from exporters.qat.options import TARGET, TRAINED_ON, Surroundings, Wish
from harness.calibrate import CalibrationJob, calibration_from_job
from harness.conditions import Finding
from harness.errors import HarnessError
from harness.exporting import trainer
from harness.preprocess import Tree, compile_tree
from harness.progress import Progress
from harness.registry import TRAINED_TABLE, engine_opener
from harness.samples import UNREADABLE, Sample, SampleSet
from noise.base import Pipeline

_WORKERS = 2


class PreparedPictures:
    """Labelled pictures behind the model's preprocessing, each prepared when it is asked for.

    Args:
        samples: the pictures.
        pipeline: from encoded bytes to the model's input.
        seed: of what steps of the pipeline draw.
    """

    def __init__(self, samples: SampleSet, pipeline: Pipeline, seed: int) -> None:
        self._samples, self._seed = samples.samples, seed
        self._tree: Tree = compile_tree([pipeline])
        self.failed: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._samples)

    def take(self, places: Sequence[int]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """The inputs [n, ...] and labels [n] of those that can be prepared; the others are in `failed`.

        Raises:
            HarnessError: more than half of all have failed.
        """
        chosen = [self._samples[place] for place in places]
        with ThreadPoolExecutor(_WORKERS) as workers:
            tensors = list(workers.map(self._tensor, chosen))
        if 2 * len(self.failed) > len(self):
            name, error = next(iter(self.failed.items()))
            raise HarnessError(
                f"{len(self.failed)} of {len(self)} pictures to train on cannot be prepared, the first is {name}: "
                f"{error}; give pictures that can"
            )
        kept = [(tensor, sample.label) for tensor, sample in zip(tensors, chosen, strict=True) if tensor is not None]
        if not kept:
            return np.empty((0, 3, 0, 0), np.float32), np.empty(0, np.int64)
        return np.stack([tensor for tensor, _ in kept]), np.array([label for _, label in kept], np.int64)

    def _tensor(self, sample: Sample) -> npt.NDArray[Any] | None:
        (prepared,) = self._tree.walk_sample(sample, self._seed)
        if prepared.tensor is None:
            self.failed[sample.id] = prepared.error or ""
        return prepared.tensor


def trained_from_job(
    job: CalibrationJob, samples: SampleSet, wish: Wish, path: Path, progress: Progress
) -> tuple[Artifact, tuple[Finding, ...]]:
    """Train a model and write it; a training that was stopped goes on.

    Args:
        job: the calibration that activations begin with.
        samples: to train on, labelled for the model.

    Raises:
        HarnessError: no such method, or most pictures cannot be prepared.
        ExportError: as `exporters.qat.job.trained_qdq`.
    """
    method = TRAINED_TABLE.resolve(wish.method)
    pictures = PreparedPictures(samples, job.pipeline, job.seed)
    calibration = calibration_from_job(job, progress)
    total = wish.training.epochs * _steps_per_epoch(len(pictures), wish)
    contents = samples.contents(progress)
    identity = f"{samples.fingerprint(contents)} {job.pipeline.key}"
    with progress.task("train", total=total) as advance:
        watch = _watching(advance, progress, _steps_per_epoch(len(pictures), wish))
        around = Surroundings(pictures, identity, set(contents.values()) - {UNREADABLE}, engine_answers, watch)
        made = trainer()(job.artifact, calibration, wish, method, around, path)
    if not pictures.failed:
        return made, ()
    text = f"{len(pictures.failed)} of {len(pictures)} pictures to train on could not be prepared and were left out"
    return made, (Finding("training", "warning", text),)


def training_findings(artifact: Artifact, scored: Mapping[str, str]) -> list[Finding]:
    """That a network is scored on pictures which it was trained on, under whatever name.

    Args:
        scored: sample id -> hash of its bytes, from `harness.samples.SampleSet.contents`.
    """
    trained_on = set(artifact.made_by.get(TRAINED_ON, ()))
    known = [sample_id for sample_id, content in scored.items() if content in trained_on]
    if not known:
        return []
    text = (
        f"{artifact.path.name} was trained on {len(known)} of the {len(scored)} scored pictures, the first is "
        f"{known[0]}: its accuracy on these says nothing of others; score pictures that it has not seen"
    )
    return [Finding("training", "warning", text)]


def engine_answers(artifact: Artifact, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """What the engine that trained files are written for says, [n, classes]."""
    with closing(engine_opener(TARGET)(artifact, EngineOptions())) as engine:
        return np.asarray(call(engine, {artifact.input.name: inputs}).outputs[artifact.output.name], np.float32)


def _steps_per_epoch(pictures: int, wish: Wish) -> int:
    return -(-pictures // wish.training.batch)


def _watching(
    advance: Callable[[int], None], progress: Progress, steps_per_epoch: int
) -> Callable[[int, int, float], None]:
    """Moves the bar, and says the mean loss of each epoch."""
    losses: list[float] = []
    last = 0

    def watch(done: int, total: int, loss: float) -> None:
        nonlocal last
        advance(done - last)
        last = done
        losses.append(loss)
        if done % steps_per_epoch == 0:
            epochs = total // steps_per_epoch
            progress.say(f"epoch {done // steps_per_epoch} of {epochs}: mean loss {np.mean(losses):.3f}")
            losses.clear()

    return watch
