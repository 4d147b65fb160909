"""Checks: what a careful engineer would try on an engine before believing it. Results are findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt

from engines import ENGINES
from engines.base import Engine, EngineError, call
from engines.certificate import Certificate
from engines.cpu import SATURATING
from engines.macs import layers_from_onnx
from engines.saturation import saturating_layers
from harness.conditions import Finding
from harness.plan import FP32, INTEGER, SIMULATED, Plan
from harness.prepare import Contender
from harness.preprocess import compile_tree
from harness.registry import engine_certifier
from harness.samples import Sample
from noise.base import Pipeline
from noise.presets import NORMALISATIONS, pipeline_from_preset

PICTURES = 8
PRESET_PICTURES = 32

Batch = npt.NDArray[np.float32]


def facts(contender: Contender) -> dict[str, Any]:
    """What the live engine says that it is."""
    with closing(contender.open()) as engine:
        return engine.facts()


def certificates(made: Plan, contenders: Sequence[Contender]) -> dict[str, Certificate]:
    """The integer-execution certificate of every quantised contender.

    Raises:
        EngineError: a simulation ran on integer kernels, so it would simulate nothing.
    """
    batch, _ = _batch(made.pipeline, made, 1)
    size = made.artifact.fixed_batch or 1
    proofs = {}
    for contender in contenders:
        if contender.version == FP32:
            continue
        certify = engine_certifier(contender.engine)
        feeds = {contender.artifact.input.name: np.resize(batch, (size, *batch.shape[1:]))}
        proof = proofs[contender.name] = certify(contender.artifact, contender.options, feeds)
        if contender.version == SIMULATED and proof.integer_macs:
            raise EngineError(
                f"{contender.name} should run in floating point, but {proof.integer_macs:,} of "
                f"{proof.total_macs:,} multiply-accumulates ran on integer kernels"
            )
    return proofs


def check_contenders(made: Plan, contenders: Sequence[Contender]) -> list[Finding]:
    """Repeatability, independence of the batch, and outputs that are what they are declared to be."""
    batch, _ = _batch(made.pipeline, made, PICTURES)
    findings = []
    for contender in contenders:
        with closing(contender.open()) as engine:
            findings += _check(contender, engine, batch)
    return findings


def _check(contender: Contender, engine: Engine, batch: Batch) -> list[Finding]:
    once = _answers(contender, engine, batch, len(batch))
    if not np.isfinite(once).all():
        text = f"{contender.name} gives numbers that are not finite on clean pictures"
        return [Finding("outputs", "warning", text)]
    again = _answers(contender, engine, batch, len(batch))
    alone = _answers(contender, engine, batch, 1)
    return [*_check_repeats(contender, once, again, alone), *_check_outputs(contender, once)]


def _check_repeats(contender: Contender, once: Batch, again: Batch, alone: Batch) -> list[Finding]:
    if not np.array_equal(once, again):
        worst = float(np.abs(once - again).max())
        text = f"{contender.name} answers differently when asked twice: outputs move by up to {worst:.3g}"
        return [Finding("repeatability", "warning", text)]
    if not np.array_equal(once, alone):
        worst = float(np.abs(once - alone).max())
        text = f"{contender.name} depends on the size of the batch: outputs move by up to {worst:.3g}"
        return [Finding("batch", "warning", text)]
    return []


def _check_outputs(contender: Contender, outputs: Batch) -> list[Finding]:
    looks_normalised = bool((outputs >= 0).all() and np.allclose(outputs.sum(axis=1), 1, atol=1e-3))
    declared = contender.artifact.output_kind
    if looks_normalised and declared == "logits":
        text = "outputs are positive and sum to one, but are declared as logits; margins and confidences are wrong"
    elif not looks_normalised and declared == "probabilities":
        text = "outputs are declared as probabilities, but do not sum to one"
    else:
        return []
    hint = f'put "output_kind" into {contender.artifact.path.name}.json'
    return [Finding("outputs", "warning", f"{contender.name}: {text}; {hint}")]


def check_targets(contenders: Sequence[Contender]) -> list[Finding]:
    """Files that were made for another runtime than the one that is asked to run them on integers."""
    findings = []
    for contender in contenders:
        made_for = contender.artifact.made_by.get("quantisation", {}).get("target")
        suits = ENGINES[contender.engine].quantised_for
        if contender.version == INTEGER and made_for and suits and made_for != suits:
            text = (
                f"{contender.artifact.path.name} was quantised for {made_for}, and {contender.engine} wants {suits}: "
                f"there it may run in float or slower; see the share of integer kernels, or quantize --for {suits}"
            )
            findings.append(Finding("target", "warning", text))
    return findings


def check_saturation(contenders: Sequence[Contender], kernel_classes: Mapping[str, str]) -> list[Finding]:
    """Integer kernels that saturate, under a file with weights that are large enough for it.

    Args:
        kernel_classes: contender -> the kernel class that its live engine read back, if it has one.
    """
    findings = []
    for contender in contenders:
        kernel = kernel_classes.get(contender.name)
        if contender.artifact.format != "onnx" or contender.version != INTEGER or kernel not in SATURATING:
            continue
        path = contender.artifact.path
        layers = saturating_layers(path)
        if not layers:
            continue
        share = sum(layer.macs for layer in layers) / sum(layer.macs for layer in layers_from_onnx(path))
        text = (
            f"{contender.name} runs on kernels of class {kernel}, where two 8-bit products saturate at 16 bits; "
            f"{len(layers)} layers of {path.name} ({100 * share:.0f} % of the multiply-accumulates) have weights large "
            f"enough for that, so its answers are not those of a processor with VNNI. Quantise for this "
            f"processor with --weight-bits 7"
        )
        findings.append(Finding("saturation", "warning", text))
    return findings


def check_presets(made: Plan, contenders: Sequence[Contender]) -> list[Finding]:
    """Whether another normalisation fits the model far better, where one had to be assumed."""
    if all(finding.check != "preprocessing" for finding in made.findings):
        return []
    contender = next((each for each in contenders if each.version == FP32), contenders[0])
    right: dict[str, int] = {}
    pictures = 0
    with closing(contender.open()) as engine:
        for name in NORMALISATIONS:
            pipeline = pipeline_from_preset(name, size=made.artifact.size[0], layout=made.artifact.layout)
            batch, labels = _batch(pipeline, made, PRESET_PICTURES)
            answers = _answers(contender, engine, batch, PICTURES)
            right[name], pictures = int((answers.argmax(axis=1) == labels).sum()), len(labels)
    best = max(right, key=lambda name: right[name])
    if pictures < PICTURES or right[best] - right["imagenet"] <= pictures // 8:
        return []
    text = (
        f"with the preset {best!r} the model gets {right[best]} of {pictures} pictures right, with 'imagenet', "
        f"which was assumed, {right['imagenet']}; repeat with --preprocess {best}"
    )
    return [Finding("preset", "warning", text)]


def _answers(contender: Contender, engine: Engine, batch: Batch, size: int) -> Batch:
    """Outputs for every picture of a batch, asked ``size`` at a time, or as many as the file insists on."""
    size = contender.artifact.fixed_batch or size
    answers = []
    for start in range(0, len(batch), size):
        part = batch[start : start + size]
        fed = np.resize(part, (size, *part.shape[1:])) if contender.artifact.fixed_batch else part
        timed = call(engine, {contender.artifact.input.name: fed})
        answers.append(timed.outputs[contender.artifact.output.name][: len(part)])
    joined: Batch = np.concatenate(answers)
    return joined


def _batch(pipeline: Pipeline, made: Plan, count: int) -> tuple[Batch, npt.NDArray[np.int64]]:
    """Inputs of the first ``count`` readable pictures and their labels, or of as many as there are.

    Calibration pictures come first, so that checking costs no scored picture's surprise. Where none can be read
    the input is one of zeros: the engine can still be checked.
    """
    tree = compile_tree([pipeline])
    inputs: list[Batch] = []
    labels: list[int] = []
    samples: Sequence[Sample] = (*made.calibration.samples.samples, *made.scored.samples)
    for sample in samples:
        if len(inputs) == count:
            break
        for prepared in tree.walk_sample(sample, made.recipe.seed):
            if prepared.tensor is not None:
                inputs.append(prepared.tensor)
                labels.append(sample.label)
    if not inputs:
        spec = made.artifact.input
        inputs, labels = [np.zeros([size or 1 for size in spec.shape[1:]], spec.dtype)], [0]
    return np.stack(inputs), np.array(labels)
