"""What the benchmark of improvements says of its rows."""

from __future__ import annotations

import pytest

pytest.importorskip("onnxruntime")

from benchmarks.improvements import best


def row(improvements: str, noisy: float, against: str) -> dict[str, str | int | float]:
    return {
        "model": "net",
        "weights": "per-tensor",
        "improvements": improvements,
        "clean %": 50.0,
        "noisy %": noisy,
        "noisy against none": against,
    }


def test_the_headline_names_only_what_is_shown_to_help() -> None:
    rows = [row("none", 20.0, "-"), row("chance", 25.0, "undecided"), row("sure", 23.0, "better")]
    assert "net, per-tensor: sure, clean 50.0 to 50.0 %, noisy 20.0 to 23.0 %." in best(rows)
    assert "net, per-tensor: nothing is shown to help." in best([*rows[:2], row("harm", 10.0, "worse")])
