"""Improve: the improvements that a recipe names, between its calibration pictures and its quantised file."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from engines.artifact import Artifact, ArtifactError, write_sidecar
from engines.onnx_file import artifact_from_onnx
from exporters.base import Calibration, Picture, Quantisation
from exporters.improvements.base import Material
from harness.calibrate import CalibrationJob, pictures_of
from harness.conditions import Finding
from harness.exporting import float_improver, improvements, qdq_writer, quantisation_target, quantised_improver
from harness.progress import Progress


def improved_job(job: CalibrationJob, names: Sequence[str], path: Path, progress: Progress) -> CalibrationJob:
    """The calibration of the float model as improvements rewrite it, which is written to ``path``, or found there.

    Args:
        job: of the float model as it was given.
        names: of improvements; those that change a Q/DQ file are left for `quantised_file`.

    Raises:
        HarnessError, ExportError: no such improvement, or one that finds nothing to do.
    """
    chosen = {name: each for name, each in improvements(names).items() if not each.after}
    if not chosen:
        return job
    identity = {
        "parent_sha256": job.artifact.sha256,
        "made_from": json.loads(json.dumps({"improve": list(chosen), "pictures": job.source().summary()})),
    }
    try:
        found = artifact_from_onnx(path)
        if identity.items() <= found.made_by.items():
            return replace(job, artifact=found)
    except ArtifactError:
        pass
    with _material(job, progress) as material:
        made = float_improver()(job.artifact, chosen, material, path)
    made = replace(made, made_by={**made.made_by, **identity})
    write_sidecar(made)
    return replace(job, artifact=made)


def quantised_file(
    job: CalibrationJob, calibration: Calibration, wish: Quantisation, path: Path, progress: Progress
) -> Artifact:
    """Write ``path``: the Q/DQ file of a float model, with the improvements that ``wish`` names.

    Args:
        job: whose artifact is the float model, from `improved_job`.
        calibration: of that model.
        wish: what becomes integers, and how.

    Raises:
        HarnessError, ExportError: the target or an improvement refuses the model or the wish.
    """
    target = quantisation_target(wish.target)
    if not wish.improve:
        return qdq_writer()(job.artifact, calibration, wish, target, path)
    chosen = {name: each for name, each in improvements(wish.improve).items() if each.after}
    # Only what is finished lies at the path: its sidecar names the improvements before they are applied.
    with tempfile.TemporaryDirectory() as folder, _material(job, progress) as material:
        plain = qdq_writer()(job.artifact, calibration, wish, target, Path(folder) / path.name)
        return quantised_improver()(plain, job.artifact, chosen, material, path)


def improvement_findings(artifact: Artifact) -> list[Finding]:
    """What each improvement of a quantised file changed, and what it left and why."""
    findings = []
    for name, done in artifact.made_by.get("improvements", {}).items():
        reasons = Counter(each["reason"] for each in done["left"]).most_common()
        left = "".join(f"; {count} left: {reason}" for reason, count in reasons)
        findings.append(Finding("improvement", "note", f"{name} changed {len(done['changed'])} layers{left}"))
    return findings


@contextmanager
def _material(job: CalibrationJob, progress: Progress) -> Iterator[Material]:
    """The calibration inputs, prepared when they are first asked for and kept on disk: some improvements go through
    them once for every layer."""
    with tempfile.TemporaryDirectory() as folder:

        def pictures() -> Iterator[Picture]:
            if not any(Path(folder).iterdir()):
                for index, picture in enumerate(pictures_of(job)):
                    np.save(Path(folder) / f"{index:08}.npy", picture)
            for file in sorted(Path(folder).iterdir()):
                yield np.load(file)

        yield Material(pictures, progress.over)
