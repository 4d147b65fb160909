"""Benchmarks: one file for each figure. ``python -m benchmarks`` measures all and writes Markdown and JSON.

The machines that run this are shared and noisy: compare figures of one run, not of two.
"""

from __future__ import annotations

# name -> module with ``measure(folder) -> Figure``
BENCHMARKS = {
    "demo": "benchmarks.demo_time",
    "pipeline": "benchmarks.pipeline",
    "memory": "benchmarks.memory",
    "records": "benchmarks.records",
    "growth": "benchmarks.growth",
    "noise": "benchmarks.noise",
    "engines": "benchmarks.engines",
    "methods": "benchmarks.methods",
    "improvements": "benchmarks.improvements",
    "smooth-quant": "benchmarks.smooth_quant",
    "int4": "benchmarks.int4",
    "qat": "benchmarks.qat",
    "kernels": "benchmarks.kernels",
    "systematic": "benchmarks.systematic",
    "mismatch": "benchmarks.mismatch",
    "adversarial": "benchmarks.adversarial",
    "transfers": "benchmarks.transfers",
    "attacks": "benchmarks.attacks",
    "overhead": "benchmarks.overhead",
    "gpu": "benchmarks.gpu",
    "queries": "benchmarks.queries",
}

# Measured only when named: a GPU, foolbox and torchattacks are not among what development needs; three train first.
ONLY_NAMED = ("smooth-quant", "int4", "qat", "transfers", "attacks", "gpu")
