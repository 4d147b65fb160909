"""Prepare: the versions of the model that a plan needs, calibrated and written once, kept in the run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.artifact import Artifact, ArtifactError
from engines.base import EngineOptions
from engines.onnx_file import artifact_from_onnx
from harness.errors import HarnessError
from harness.plan import FP32, SIMULATED, Condition, Plan
from harness.preprocess import compile_tree
from harness.progress import Progress
from harness.registry import file_owner, int8_exporter


@dataclass(frozen=True)
class Contender:
    """One version of the model on one engine: a column of the report.

    Args:
        engine: row of `engines.ENGINES`.
        version: "fp32", "simulated" or "integer".
        artifact: the file that runs.
        options: how it is opened.
    """

    engine: str
    version: str
    artifact: Artifact
    options: EngineOptions

    @property
    def name(self) -> str:
        """``ENGINE:VERSION``."""
        return f"{self.engine}:{self.version}"

    def cell_key(self, condition: Condition, seed: int) -> str:
        """16 hexadecimal digits that name what runs in one cell, whatever it is called."""
        content = {
            "pipeline": condition.pipeline.describe(),
            **({"folder": condition.folder} if condition.folder else {}),
            "artifact": self.artifact.sha256,
            "engine": self.engine,
            "options": self.options.describe(),
            "seed": seed,
        }
        text = json.dumps(content, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def prepare(made: Plan, folder: Path, progress: Progress) -> tuple[Contender, ...]:
    """The contenders of a plan. Quantised files are written into ``folder``, or found there and used again."""
    folder.mkdir(parents=True, exist_ok=True)
    quantised: dict[str, Artifact] = {}
    contenders = []
    for engine, version in made.versions:
        artifact = made.artifact
        if version != FP32 and not artifact.quantised:
            owner = file_owner(engine)
            if owner not in quantised:
                quantised[owner] = _quantised(made, owner, folder, progress)
            artifact = quantised[owner]
        contenders.append(Contender(engine, version, artifact, EngineOptions(integer_kernels=version != SIMULATED)))
    return tuple(contenders)


def _quantised(made: Plan, target: str, folder: Path, progress: Progress) -> Artifact:
    path = folder / f"{made.artifact.path.stem}.int8.{target}.onnx"
    identity = {
        "picture_list": made.calibration.fingerprint(),
        "preprocessing": made.pipeline.key,
    }
    found = _found(path, made, identity)
    if found is not None:
        return found
    quantise = int8_exporter(target)
    with progress.task("calibrate", total=len(made.calibration.samples)) as advance:
        return quantise(made.artifact, advance.over(_pictures(made)), identity, path)


def _found(path: Path, made: Plan, identity: dict[str, str]) -> Artifact | None:
    """The quantised file of an earlier attempt, if it is whole and was made from the same things."""
    try:
        artifact = artifact_from_onnx(path)
    except ArtifactError:
        return None
    calibration: dict[str, Any] = artifact.made_by.get("calibration", {})
    same = artifact.made_by.get("parent_sha256") == made.artifact.sha256 and all(
        calibration.get(key) == value for key, value in identity.items()
    )
    return artifact if same else None


def _pictures(made: Plan) -> Iterator[npt.NDArray[np.float32]]:
    """The calibration pictures, preprocessed without noise, one at a time; unreadable ones are left out.

    How many were used is recorded with the calibration.

    Raises:
        HarnessError: more than half of them cannot be read.
    """
    tree = compile_tree([made.pipeline])
    failures: list[str] = []
    for sample in made.calibration.samples:
        for prepared in tree.walk_sample(sample, made.recipe.seed):
            if prepared.tensor is None:
                failures.append(f"{sample.id}: {prepared.error}")
            else:
                yield np.repeat(prepared.tensor[None], made.artifact.fixed_batch or 1, axis=0)
    if len(failures) * 2 > len(made.calibration.samples):
        raise HarnessError(
            f"{len(failures)} of {len(made.calibration.samples)} calibration pictures cannot be read, "
            f"the first: {failures[0]}"
        )
