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
    scores = outputs.astype(np.float64)
    if output_kind == "probabilities":
        scores = np.log(np.maximum(scores, np.finfo(np.float32).tiny))
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
