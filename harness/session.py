"""Session: the straight line in one function. A recipe becomes a finished run with its reports."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from exporters.base import Source
from exporters.qat.options import TRAINED_ON
from harness.calibrate import calibration_findings, leaks
from harness.checks import certificates, check_contenders, check_presets, check_saturation, check_targets, facts
from harness.conditions import Finding
from harness.environment import environment
from harness.errors import HarnessError
from harness.extent import WHOLE, Extent, Shard
from harness.improve import improvement_findings
from harness.plan import Plan, plan
from harness.prepare import Contender, prepare
from harness.progress import Progress
from harness.quantities import grid_from_plan
from harness.recipe import Recipe, read_recipe, toml_from_recipe
from harness.registry import cluster_runner
from harness.report.build import Report, report_from_store
from harness.report.write import write_reports
from harness.run import run
from harness.samples import UNREADABLE
from harness.speed import Speed
from harness.store import STOPPING, Store
from harness.train import training_findings


def execute(recipe: Recipe, folder: Path, speed: Speed, progress: Progress, extent: Extent | None = None) -> Report:
    """Plan, prepare, measure and report. Where ``folder`` holds the same run already, only what is missing.

    Args:
        extent: how much of it; ``None`` is everything.

    Raises:
        HarnessError, ArtifactError, ExportError, EngineError: the message says what to change; nothing that
            was measured is lost.
    """
    extent = extent or Extent()
    made = plan(recipe)
    extent.check(grid_from_plan(made))
    with locked_store(recipe, folder) as store:
        extent.claim(store)
        changed = extent.other_rules(store)
        if changed:
            progress.say(f"note: {folder} was begun under other rules, {changed}; from now on the new ones end it")
        contents = made.scored.contents(progress)
        source = made.calibration.source()
        findings = [*_leaks(made, source, contents), *training_findings(made.artifact, contents)]
        contenders = prepare(made, store.artifacts, progress)
        fingerprint = made.scored.fingerprint(contents)
        store.claim(identity(made, contenders, fingerprint, made.calibration.describe(source)))
        if not (folder / "prepared.json").exists():
            store.write_json("prepared.json", _prepared(made, contenders, findings, progress))
        speed = _safe(speed, store)
        if extent.until is None:
            store.remove(STOPPING)  # of a rule that ended the run before
        if extent.ray:
            cluster_runner()(extent.ray, made, contenders, store, speed, progress)
        else:
            run(made, contenders, store, speed, extent, progress)
        report = report_from_store(store)
        write_reports(report, store)
    return report


@contextmanager
def locked_store(recipe: Recipe, folder: Path) -> Iterator[Store]:
    """The folder of a run to oneself, known as one by its recipe.

    Raises:
        HarnessError: it holds something else, or another process is at work there.
    """
    store = Store(folder)
    store.create()
    with store.locked():
        _keep_recipe(store, recipe)
        yield store


def default_folder(recipe: Recipe, shard: Shard = WHOLE) -> Path:
    """Where a run goes that was given no folder: the same recipe always finds its own run again."""
    text = json.dumps(asdict(recipe), sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    part = f"-{shard.number}of{shard.of}" if shard.of > 1 else ""
    return Path("qharness-runs") / f"{Path(recipe.model).stem}-{digest}{part}"


def identity(
    made: Plan, contenders: Sequence[Contender], fingerprint: str, calibration: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that the records depend on, as JSON; a run continues only where this is equal.

    Args:
        fingerprint: of the scored pictures.
        calibration: `harness.calibrate.CalibrationJob.describe`.
    """
    seed = made.recipe.seed
    return {
        "recipe": json.loads(json.dumps(asdict(made.recipe))),
        "model": {
            "file": made.artifact.path.name,
            "sha256": made.artifact.sha256,
            "output_kind": made.artifact.output_kind,
            "classes": made.artifact.class_count,
        },
        "preprocessing": made.pipeline.describe(),
        "data": {
            "source": made.scored.source,
            "pictures": len(made.scored.samples),
            "fingerprint": fingerprint,
        },
        "calibration": dict(calibration),
        "conditions": [
            {
                "name": condition.name,
                "noise": condition.noise,
                "setting": condition.setting,
                "pipeline": condition.pipeline.describe(),
                "folder": condition.folder,
                "content": condition.content,
                "cells": {each.name: each.cell_key(condition, seed) for each in contenders},
            }
            for condition in made.conditions
        ],
        "not_run": [{"name": each.name, **asdict(each)} for each in made.not_run],
        "environment": environment(),
    }


def _keep_recipe(store: Store, recipe: Recipe) -> None:
    """Write the recipe into a folder without a run, or see that the folder holds a run of this recipe."""
    if not store.claimed:
        store.write_text(store.recipe_path.name, toml_from_recipe(recipe))
        return
    there = read_recipe(store.recipe_path)
    for field in dataclasses.fields(Recipe):
        old, new = getattr(there, field.name), getattr(recipe, field.name)
        if old != new:
            raise HarnessError(
                f"{store.folder} holds a run with {field.name} = {old!r}, and this one has {new!r}; "
                f"choose another folder with -o"
            )


def _leaks(made: Plan, source: Source, scored: Mapping[str, str]) -> list[Finding]:
    """Calibration pictures that are scored too, under whatever name.

    Raises:
        HarnessError: the user chose the calibration pictures, and can choose others. Where pictures were set aside
            from a set that holds some twice, that is only to be known.
    """
    copies = leaks(source, scored, UNREADABLE)
    if not copies:
        return []
    text = (
        f"{len(copies)} calibration pictures have the bytes of scored ones, the first is {copies[0][0]}, scored "
        f"as {copies[0][1]}"
    )
    recipe = made.recipe
    if (recipe.calibrate or recipe.calibration) and not recipe.calibration_overlap:
        raise HarnessError(f"{text}; calibrate on others, or allow it with calibration_overlap = true in the recipe")
    return [Finding("calibration", "warning", text)]


def _safe(speed: Speed, store: Store) -> Speed:
    """One picture per call where an engine was found to depend on the batch; else as asked."""
    depends = any(finding["check"] == "batch" for finding in store.read_json("prepared.json")["findings"])
    return dataclasses.replace(speed, batch=1) if depends else speed


def _prepared(
    made: Plan, contenders: Sequence[Contender], known: Sequence[Finding], progress: Progress
) -> dict[str, Any]:
    """Facts, certificates and findings, read from the live engines once per run; ``known`` findings come first."""
    with progress.task("check engines", total=4) as advance:
        described = {each.name: _describe(each) for each in contenders}
        advance()
        proofs = {name: proof.describe() for name, proof in certificates(made, contenders).items()}
        advance()
        findings = [*known, *made.findings, *_quantisation_findings(contenders)]
        kernel_classes = {name: each["facts"].get("kernel_class", "") for name, each in described.items()}
        findings += check_targets(contenders)
        findings += check_saturation(contenders, kernel_classes)
        findings += check_contenders(made, contenders)
        advance()
        findings += check_presets(made, contenders)
        advance()
    return {
        "contenders": described,
        "certificates": proofs,
        "findings": [asdict(finding) for finding in findings],
    }


def _describe(contender: Contender) -> Mapping[str, Any]:
    artifact = contender.artifact
    return {
        "engine": contender.engine,
        "version": contender.version,
        "file": artifact.path.name,
        "sha256": artifact.sha256,
        "bytes": artifact.path.stat().st_size,
        "made_by": {key: value for key, value in artifact.made_by.items() if key != TRAINED_ON},
        "facts": facts(contender),
    }


def _quantisation_findings(contenders: Sequence[Contender]) -> list[Finding]:
    """What there is to know of the calibrations and improvements of all contenders, each thing once."""
    summaries = [each.artifact.made_by.get("calibration") for each in contenders]
    calibrations = chain.from_iterable(calibration_findings(each) for each in summaries if each)
    improved = chain.from_iterable(improvement_findings(each.artifact) for each in contenders)
    return list(dict.fromkeys((*calibrations, *improved)))
