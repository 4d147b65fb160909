"""Benchmarks: one file for each figure. ``python -m benchmarks`` measures all and writes Markdown and JSON.

The machines that run this are shared and noisy: compare figures of one run, not of two.
"""

from __future__ import annotations

# name -> module with ``measure(folder) -> Figure``
BENCHMARKS = {
    "demo": "benchmarks.demo_time",
    "throughput": "benchmarks.throughput",
    "memory": "benchmarks.memory",
    "noise": "benchmarks.noise",
    "kernels": "benchmarks.kernels",
}
