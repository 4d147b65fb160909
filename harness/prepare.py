"""Prepare: the versions of the model that a plan needs, calibrated and written once, kept in the run."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from engines import ENGINES
from engines.artifact import Artifact, ArtifactError
from engines.base import Engine, EngineError, EngineOptions, Piecewise
from engines.onnx_file import artifact_from_onnx
from exporters.base import Calibration, ExportError, made_from, read_calibration, write_calibration
from harness.calibrate import CalibrationJob, calibration_from_job
from harness.conditions import Condition
from harness.improve import improved_job, quantised_file
from harness.plan import FP32, SIMULATED, Plan
from harness.progress import Progress
from harness.recipe import options_from_recipe, quantisation_from_recipe
from harness.registry import engine_opener


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

    def open(self, rows: int = 1) -> Engine:
        """Its engine, which who asked closes.

        Args:
            rows: in a batch that is to be measured.

        Raises:
            EngineError: it cannot be opened, or would cut such a batch, so that no time would be that of a batch.
        """
        engine = engine_opener(self.engine)(self.artifact, self.options)
        most = engine.most_rows if isinstance(engine, Piecewise) else None
        if most is not None and rows > most:
            engine.close()
            raise EngineError(
                f"{self.name} takes {most} pictures at once, got {rows}: choose a --batch (of bench: --streams) of "
                f"{most} or less, or build a plan for {rows} with qharness build --batch and give that as the model"
            )
        return engine

    def cell_key(self, condition: Condition, seed: int) -> str:
        """16 hexadecimal digits that name what runs in one cell, whatever it is called."""
        content = {
            "pipeline": condition.pipeline.describe(),
            **({"folder": condition.content or condition.folder} if condition.folder else {}),
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
            target = ENGINES[engine].quantised_for
            if target not in quantised:
                quantised[target] = _quantised(made, target, folder, progress)
            artifact = quantised[target]
        options = options_from_recipe(made.recipe, integer_kernels=version != SIMULATED)
        contenders.append(Contender(engine, version, artifact, options))
    return tuple(contenders)


def _quantised(made: Plan, target: str, folder: Path, progress: Progress) -> Artifact:
    """The model as Q/DQ for a target; what an earlier attempt left, made from the same things, is used again."""
    stem = made.artifact.path.stem
    wish = quantisation_from_recipe(made.recipe, target)
    job = improved_job(made.calibration, wish.improve, folder / f"{stem}.improved.onnx", progress)
    calibration = _calibration(job, folder / f"{stem}.calibration.json", progress)
    path = folder / f"{stem}.int8.{target}.onnx"
    try:
        found = artifact_from_onnx(path)
        if made_from(calibration, wish).items() <= found.made_by.items():
            return found
    except ArtifactError:
        pass
    return quantised_file(job, calibration, wish, path, progress)


def _calibration(job: CalibrationJob, path: Path, progress: Progress) -> Calibration:
    """The ranges, kept at ``path``."""
    try:
        kept = read_calibration(path)
        if kept.model_sha256 == job.artifact.sha256 and kept.source == job.source():
            return kept
    except ExportError:
        pass
    calibration = calibration_from_job(job, progress)
    write_calibration(calibration, path)
    return calibration
