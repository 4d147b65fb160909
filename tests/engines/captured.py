"""Every tensor of an optimised graph, captured by running it as it is with all of them as outputs.

Run as a program, ``python -m tests.engines.captured MODEL FEEDS.npz TENSORS.npz``, it captures in a process of its own:
one on an emulated processor.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

Array = npt.NDArray[Any]
ROOT = Path(__file__).parent.parent.parent


def optimise(model: Path, target: Path) -> Path:
    """Write the graph that ONNX Runtime makes of a file, with all its tensors as outputs."""
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    settings.optimized_model_filepath = str(target)
    ort.InferenceSession(str(model), settings, providers=["CPUExecutionProvider"])
    return with_all_outputs(onnx.load(str(target)), target)


def with_all_outputs(model: onnx.ModelProto, target: Path) -> Path:
    """Write a model with every tensor that a node computes as an output."""
    there = {value.name for value in model.graph.output}
    new = [name for node in model.graph.node for name in node.output if name and name not in there]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in new)
    onnx.save(model, str(target))
    return target


def capture(optimised: Path, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Tensor -> value, the feeds included; nothing is optimised a second time."""
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = 1
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(optimised), settings, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return {**feeds, **dict(zip(names, session.run(names, dict(feeds)), strict=True))}


def capture_under(command: Sequence[str], optimised: Path, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """As `capture`, by a Python that ``command`` starts."""
    given, tensors = optimised.with_suffix(".feeds.npz"), optimised.with_suffix(".tensors.npz")
    np.savez(given, **feeds)
    worker = [sys.executable, "-m", "tests.engines.captured", str(optimised), str(given), str(tensors)]
    subprocess.run([*command, *worker], cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    with np.load(tensors) as found:
        return dict(found)


if __name__ == "__main__":
    with np.load(sys.argv[2]) as stored:
        np.savez(sys.argv[3], **capture(Path(sys.argv[1]), dict(stored)))
