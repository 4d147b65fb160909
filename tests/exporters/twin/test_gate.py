"""The gate: its verdicts at the edges, and its words."""

from __future__ import annotations

import numpy as np
import pytest

from exporters.twin.gate import gate_from_logits


def answers(disagreeing: int, count: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Logits of an engine, and of a twin that errs so often."""
    engine = np.eye(10)[np.arange(count) % 10]
    twin = engine.copy()
    twin[:disagreeing] = np.roll(twin[:disagreeing], 1, axis=1)
    return engine, twin


@pytest.mark.parametrize(
    ("quantised", "disagreeing", "speaks"), [(False, 1, True), (False, 2, False), (True, 3, True), (True, 4, False)]
)
def test_a_twin_speaks_from_99_percent_on_and_a_quantised_one_from_97(
    quantised: bool, disagreeing: int, speaks: bool
) -> None:
    gate = gate_from_logits(*answers(disagreeing), quantised)
    assert gate.speaks is speaks
    assert ("transfer results do not speak for the engine" in gate.reason) is not speaks


def test_the_reason_has_both_numbers() -> None:
    engine, twin = answers(10)
    gate = gate_from_logits(engine, twin, quantised=True)
    assert "90 of 100 pictures (90.0%, needed 97%)" in gate.reason
    assert "0.02 on average and 1 at most" in gate.reason
    assert gate.describe()["agreement"] == 0.9
    assert gate.describe()["max_error"] == 1.0
