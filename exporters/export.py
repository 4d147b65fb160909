"""Export: a network of PyTorch becomes an ONNX file that gives the same answers, or no file."""

from __future__ import annotations

import math
import os
import platform
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch

from engines.artifact import Artifact, sidecar_path, write_sidecar
from engines.onnx_file import artifact_from_onnx
from engines.ort import CPU, OrtFailure
from exporters.base import ExportError
from exporters.comparison import Comparison, Exported, ParityFailed, Pictures, described
from exporters.export_options import ExportOptions
from exporters.levels import with_levels
from exporters.parity import parity_from_logits
from exporters.simplify import finished, opset_of, simplified, with_opset
from exporters.sources.base import Network, listed
from exporters.sources.weights import weights_sha256
from exporters.trace import traced
from noise.base import Pipeline
from noise.normalise import float32
from noise.presets import pipeline_from_preset

Levels = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float32]

BATCHES = (1, 8)
RANDOM_INPUTS = 2 * max(BATCHES)
_LIMIT_BYTES = 2 << 30
PICTURES, RANDOM = "pictures", "random"


def export(network: Network, options: ExportOptions, pictures: Pictures, path: Path) -> Exported:
    """Write a network as ONNX, with its sidecar, once the file is seen to give the network's answers.

    Args:
        network: what to write; it is put into eval mode, in float32.
        options: how.
        pictures: what the file is compared on; random levels of the same size join them.
        path: of the new file. It appears whole, or not at all.

    Raises:
        ExportError: the network cannot be written; the message says why.
        ParityFailed: the file does not give the network's answers.
    """
    with _one_thread():
        return _export(network, options, pictures, path)


def _export(network: Network, options: ExportOptions, pictures: Pictures, path: Path) -> Exported:
    module, notes = _ready(network.module)
    size = pictures.levels.shape[1]
    pipeline = network.pipeline or pipeline_from_preset("imagenet", size=size)
    inputs = {PICTURES: pictures.levels, RANDOM: _random_levels(size, options.seed)}
    found = _answered(module, _floats(pictures.levels[:2], pipeline)).shape[1]
    wanted = options.classes or (len(network.classes) if network.classes else found)
    if wanted != found:
        raise ExportError(
            f"the network has {found} outputs, and {wanted} classes are named; mend the list, or the network"
        )
    model, warned = traced(module, size, options.exporter, options.opset)
    model, simpler = _simpler(model, _floats(np.concatenate([*inputs.values()]), pipeline))
    model = finished(with_opset(model, options.opset))
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        draft = Path(folder) / path.name
        onnx.save(model, str(draft))
        made = replace(
            artifact_from_onnx(draft),
            preprocessing=None if network.pipeline is None else tuple(network.pipeline.describe()),
            classes=network.classes,
        )
        if options.bake:
            made = with_levels(made, draft)
        comparisons = tuple(_compared(module, made, inputs, pipeline))
        if not all(each.passed for each in comparisons):
            raise ParityFailed(comparisons, path, warned)
        parity = described(comparisons, pictures, options.seed)
        facts = _facts(network, options, model) | {"simplified": simpler, "parity": parity}
        made = replace(made, made_by={**facts, **made.made_by})
        write_sidecar(made)
        os.replace(draft, path)
        os.replace(sidecar_path(draft), sidecar_path(path))
    return Exported(artifact_from_onnx(path), comparisons, (*network.notes, *notes, *warned, *_few(pictures)))


def _few(pictures: Pictures) -> Iterator[str]:
    """What the pictures lack, for the user to know."""
    if pictures.unreadable:
        yield f"not compared on, for they cannot be read: {listed(pictures.unreadable)}"
    if len(pictures.levels) < max(BATCHES):
        yield f"pictures compared on: {len(pictures.levels)} only, repeated to batches of {max(BATCHES)}"


@contextmanager
def _one_thread() -> Iterator[None]:
    """Two runtimes take turns here, and each one's idle threads would spin on the cores that the other needs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _ready(module: torch.nn.Module) -> tuple[torch.nn.Module, tuple[str, ...]]:
    """The module on the CPU in float32 and eval mode, and what had to be changed for that."""
    notes = []
    training = [name or "the network itself" for name, each in module.named_modules() if each.training]
    if training and training[0] == "the network itself":
        notes.append("the network was in train mode, with dropout and batch statistics; it was put into eval mode")
    elif training:
        first = training[0]
        notes.append(f"{len(training)} parts were in train mode, the first is {first}; they were put into eval mode")
    kinds = {each.dtype for each in module.parameters() if each.is_floating_point()}
    other = {str(each) for each in kinds - {torch.float32}}
    if other:
        notes.append(f"the network has weights in {', '.join(sorted(other))}; they were converted to float32")
    module = module.cpu().float().eval()
    stubborn = next((name or "the network itself" for name, each in module.named_modules() if each.training), None)
    if stubborn is not None:
        raise ExportError(f"{stubborn} stays in train mode when eval() is called; mend its train()")
    size_bytes = sum(each.numel() * each.element_size() for each in module.state_dict().values())
    if size_bytes >= _LIMIT_BYTES:
        raise ExportError(
            f"the weights hold {size_bytes / 2**30:.1f} GiB; expected less than 2 GiB, the limit of a protocol buffer"
        )
    return module, tuple(notes)


def _answered(module: torch.nn.Module, inputs: Values) -> torch.Tensor:
    """The class scores [n, classes] of a network that gives the same ones when it is asked again.

    Raises:
        ExportError: something else.
    """
    batch = torch.from_numpy(inputs)
    shape = list(batch.shape)
    try:
        with torch.no_grad():
            first, second = module(batch), module(batch)
    except Exception as error:
        raise ExportError(f"the network refuses {shape}: {error}; choose another --size") from error
    if not isinstance(first, torch.Tensor):
        parts = f" of {len(first)}" if isinstance(first, (tuple, list, dict)) else ""
        raise ExportError(
            f"the network returns {type(first).__name__}{parts}; expected one tensor [N, classes]. Give a factory that "
            f"returns the class scores alone: python:MODULE:FACTORY"
        )
    if first.ndim != 2 or len(first) != len(batch):
        raise ExportError(f"the network makes {list(first.shape)} of {shape}; expected [N, classes]")
    if not torch.equal(first, second):
        raise ExportError(
            "the network gives two answers to the same pictures, so it draws random numbers though it is in eval mode; "
            "a dropout by torch.nn.functional needs training=self.training"
        )
    if not first.isfinite().all() or first.min() == first.max():
        raise ExportError(
            f"the network's scores are from {float(first.min()):g} to {float(first.max()):g} for all pictures and "
            f"classes; expected numbers that differ. Has it been given its weights?"
        )
    return first


def _simpler(model: onnx.ModelProto, inputs: Values) -> tuple[onnx.ModelProto, bool]:
    """The simplified graph if it answers as the one it was made from, and whether it does."""
    before = _Session(model.SerializeToString())
    smaller = simplified(model)
    after = _Session(smaller.SerializeToString())
    found = Comparison(PICTURES, len(inputs), parity_from_logits(before(inputs), after(inputs)))
    return (smaller, True) if found.passed else (model, False)


def _compared(
    module: torch.nn.Module, made: Artifact, inputs: Mapping[str, Levels], pipeline: Pipeline
) -> list[Comparison]:
    """The network against the file, for every kind of input and batch."""
    session = _Session(made.path.read_bytes())
    among = _logits(module, [_floats(levels, pipeline) for levels in inputs.values()])
    found = []
    for name, levels in inputs.items():
        floats = _floats(levels, pipeline)
        given: npt.NDArray[Any] = levels if made.input.dtype == "uint8" else floats
        for batch in BATCHES:
            parts = _whole_batches(len(levels), batch)
            wanted = _logits(module, [floats[part] for part in parts])
            got = np.concatenate([session(given[part]) for part in parts])
            found.append(Comparison(name, batch, parity_from_logits(wanted, got, among)))
    return found


def _logits(module: torch.nn.Module, batches: Iterable[Values]) -> Values:
    with torch.no_grad():
        return np.concatenate([module(torch.from_numpy(batch)).numpy() for batch in batches])


class _Session:
    """ONNX Runtime on the CPU: one input in, logits out."""

    def __init__(self, model: bytes) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 4  # what is raised is said once
        options.intra_op_num_threads = 1
        try:
            self._session = ort.InferenceSession(model, options, providers=[CPU])
        except OrtFailure as error:
            raise ExportError(f"ONNX Runtime {ort.__version__} refuses the exported file: {error}") from error

    def __call__(self, inputs: npt.NDArray[Any]) -> Values:
        try:
            logits: Values = self._session.run(None, {self._session.get_inputs()[0].name: inputs})[0]
        except OrtFailure as error:
            raise ExportError(f"ONNX Runtime cannot run the exported file on {list(inputs.shape)}: {error}") from error
        return logits


def _whole_batches(n: int, batch: int) -> list[npt.NDArray[np.int64]]:
    """Indices of n inputs in batches that are all whole: the first inputs are repeated to fill the last one."""
    order = np.arange(math.ceil(n / batch) * batch) % n
    return [*order.reshape(-1, batch)]


def _random_levels(size: int, seed: int) -> Levels:
    return np.random.default_rng(seed).integers(0, 256, (RANDOM_INPUTS, size, size, 3), np.uint8)


def _floats(levels: Levels, pipeline: Pipeline) -> Values:
    """The input [n, 3, H, W] that the pipeline's last steps make of levels [n, H, W, 3]."""
    normalise = float32(**pipeline.step_of("normalise", "an export needs").params)
    rng = np.random.default_rng(0)  # normalising draws nothing
    return np.ascontiguousarray(np.stack([normalise(picture, rng) for picture in levels]).transpose(0, 3, 1, 2))


def _facts(network: Network, options: ExportOptions, model: onnx.ModelProto) -> dict[str, Any]:
    """Where the file comes from; of what was asked for, what the file says itself."""
    return {
        "tool": "qharness export",
        "source": dict(network.about),
        "weights_sha256": weights_sha256(network.module),
        "mode": "eval",
        "exporter": options.exporter,
        "opset": opset_of(model),
        "ir_version": model.ir_version,
        "versions": {
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "onnxscript": version("onnxscript"),
            "onnxruntime": ort.__version__,
            "python": platform.python_version(),
        },
    }
