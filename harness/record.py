"""Record: what one engine said about one picture under one condition, or why it said nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Outputs = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float64]


class Record(NamedTuple):
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
        from_fp32: `logit_distances` to the answer of the fp32 version on the same engine; ``None`` where it gave none.
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


def scores(outputs: Outputs, labels: Sequence[int], output_kind: str) -> list[dict[str, Any]]:
    """The fields of `Record` from ``prediction`` on, of several answers at once. None depends on its neighbours.

    Args:
        outputs: float32 [n, classes], logits or probabilities as ``output_kind`` says.
        labels: n indices of the true classes.

    Returns:
        For each answer its fields by name; only ``error`` where an output is not a finite number.

    >>> scores(np.array([[0.0, 2.0, 1.0]], np.float32), [1], "logits")[0]["margin"]
    1.0
    """
    finite = np.isfinite(outputs)
    logits = logits_from_outputs(np.where(finite, outputs, 0), output_kind)
    rows = np.arange(len(logits))
    of_label = logits[rows, labels]
    largest = logits.max(axis=1)
    log_sum = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1))
    larger = (logits > of_label[:, None]).sum(axis=1)
    prediction = logits.argmax(axis=1)
    logits[rows, labels] = -np.inf
    margin = of_label - logits.max(axis=1) if logits.shape[1] > 1 else np.zeros(len(logits))
    columns = {
        "prediction": prediction.tolist(),
        "correct": (prediction == labels).tolist(),
        "top5": (larger < 5).tolist(),
        "margin": _float32(margin),
        "log_probability": _float32(of_label - log_sum),
        "confidence": _float32(np.exp(largest - log_sum)),
    }
    fields = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    for row in np.flatnonzero(~finite.all(axis=1)).tolist():
        fields[row] = {"error": f"{int((~finite[row]).sum())} of {outputs.shape[1]} outputs are not finite"}
    return fields


def logit_distances(outputs: Outputs, references: Outputs, output_kind: str) -> list[float | None]:
    """How far answers are from others: |a - b| / |b|, both without their mean, which says nothing of a class.

    Args:
        outputs: float32 [n, classes], logits or probabilities as ``output_kind`` says.
        references: the same; the answers that count as 1.

    Returns:
        For each pair 0 where it is equal; ``None`` where a number is not finite or the reference is flat.

    >>> logit_distances(np.float32([[0, 2]]), np.float32([[5, 6]]), "logits")
    [1.0]
    """
    known: npt.NDArray[np.bool_] = np.all(np.isfinite(outputs) & np.isfinite(references), axis=1)
    whole = (np.where(known[:, None], each, 0) for each in (outputs, references))
    ours, theirs = (logits_from_outputs(each, output_kind) for each in whole)
    ours -= ours.mean(axis=1, keepdims=True)
    theirs -= theirs.mean(axis=1, keepdims=True)
    length = np.linalg.norm(theirs, axis=1)
    known &= length > 0
    distance = np.linalg.norm(ours - theirs, axis=1) / np.where(known, length, 1)
    return [value if there else None for value, there in zip(_float32(distance), known.tolist(), strict=True)]


def logits_from_outputs(outputs: Outputs, output_kind: str) -> Scores:
    """Logits as they are, probabilities as their logarithms: float64 [n, classes]."""
    values = outputs.astype(np.float64)
    return np.log(np.maximum(values, np.finfo(np.float32).tiny)) if output_kind == "probabilities" else values


def _float32(values: Scores) -> list[float]:
    """What a column of the store keeps of them."""
    kept: list[float] = values.astype(np.float32).tolist()
    return kept
