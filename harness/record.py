"""Record: what one engine said about one picture under one condition, or why it said nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Record:
    """One row.

    Args:
        cell: `harness.prepare.Contender.cell_key`.
        sample: `harness.samples.Sample.id`.
        label: index of the true class.
        source: what the file is, such as "JPEG RGB".
        prediction: index of the largest output, the first of several equal ones.
        correct: whether that is the label.
        top5: whether fewer than five outputs are larger than the label's.
        margin: the label's output minus the largest other one, in logits or log-probabilities.
        log_probability: natural logarithm of the probability of the label.
        confidence: probability of the prediction, 0 to 1.
        from_fp32: `logit_distance` to the fp32 version's answer on the same engine; ``None`` where that did not answer.
        from_simulated: the same to the simulated version's answer.
        error: what failed; then everything from ``prediction`` on is ``None``.
    """

    cell: str
    sample: str
    label: int
    source: str
    prediction: int | None = None
    correct: bool | None = None
    top5: bool | None = None
    margin: float | None = None
    log_probability: float | None = None
    confidence: float | None = None
    from_fp32: float | None = None
    from_simulated: float | None = None
    error: str | None = None


def score(outputs: npt.NDArray[np.float32], label: int, output_kind: str) -> dict[str, Any]:
    """The fields of a `Record` from ``prediction`` on.

    Args:
        outputs: float32 [classes], logits or probabilities as ``output_kind`` says.
        label: index of the true class.

    Returns:
        The fields by name; only ``error`` when an output is not a finite number.

    >>> score(np.array([0.0, 2.0, 1.0], np.float32), 1, "logits")["margin"]
    1.0
    """
    if not np.isfinite(outputs).all():
        return {"error": f"{int((~np.isfinite(outputs)).sum())} of {outputs.size} outputs are not finite"}
    scores = _logits(outputs, output_kind)
    prediction = int(scores.argmax())
    others = np.delete(scores, label)
    log_sum = float(scores.max() + np.log(np.exp(scores - scores.max()).sum()))
    return {
        "prediction": prediction,
        "correct": prediction == label,
        "top5": bool((others > scores[label]).sum() < 5),
        "margin": float(np.float32(scores[label] - others.max())) if others.size else 0.0,
        "log_probability": float(np.float32(scores[label] - log_sum)),
        "confidence": float(np.float32(np.exp(scores[prediction] - log_sum))),
    }


def logit_distance(
    outputs: npt.NDArray[np.float32], reference: npt.NDArray[np.float32], output_kind: str
) -> float | None:
    """How far an answer is from another one: |a - b| / |b|, both without their mean, which says nothing of a class.

    Args:
        outputs: float32 [classes], logits or probabilities as ``output_kind`` says.
        reference: the same; the answer that counts as 1.

    Returns:
        0 for equal answers; ``None`` where a number is not finite or the reference is flat.

    >>> logit_distance(np.float32([0, 2]), np.float32([5, 6]), "logits")
    1.0
    """
    if not (np.isfinite(outputs).all() and np.isfinite(reference).all()):
        return None
    ours, theirs = (_logits(each, output_kind) for each in (outputs, reference))
    ours, theirs = ours - ours.mean(), theirs - theirs.mean()
    length = float(np.linalg.norm(theirs))
    return float(np.float32(np.linalg.norm(ours - theirs) / length)) if length else None


def _logits(outputs: npt.NDArray[np.float32], output_kind: str) -> npt.NDArray[np.float64]:
    scores = outputs.astype(np.float64)
    return np.log(np.maximum(scores, np.finfo(np.float32).tiny)) if output_kind == "probabilities" else scores
