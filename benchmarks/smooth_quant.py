"""What SmoothQuant does to the INT8 accuracy of a transformer, clean and under noise.

No pretrained transformer comes with the pictures, so a small one is trained first (`benchmarks.vit`, PyTorch, some
minutes). Its normalised activations have no channels far larger than the rest, as those of large language models do:
that the network is left as good as it was is what can be shown here.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from benchmarks.figure import Figure
from benchmarks.improvements import best, compared, explained, subject
from benchmarks.vit import trained
from exporters.base import PER_CHANNEL, PER_TENSOR
from harness.demo.embedded import demo_recipe

SCORED = 224
IMPROVEMENTS = ((), ("smooth-quant:0.5",), ("smooth-quant:0.8",), ("smooth-quant:0.5", "bias-correction"))


def measure(folder: Path) -> Figure:
    """Calibrated and scored on the embedded pictures."""
    artifact = trained(folder / "vit.onnx", os.cpu_count() or 1)
    recipe = replace(demo_recipe(), model=str(artifact.path), limit=SCORED)
    made = subject("vision transformer", recipe, recipe)
    rows = [row for weights in (PER_TENSOR, PER_CHANNEL) for row in compared(made, weights, IMPROVEMENTS, folder)]
    return Figure("Accuracy of a transformer by improvement", rows, f"{best(rows)} {explained(rows)}")
