"""Weights in a file, for a network that another source builds: `checkpoint:FILE --arch SPEC`."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch

from engines.artifact import sha256_of
from exporters.base import ExportError
from exporters.sources.base import Architecture, Network, Request, listed
from exporters.sources.state_dict import COUNTERS, State, fitted, read_state

# What a weight may be stored in: a type whose numbers are the weight's own.
VALUES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def load(request: Request) -> Network:
    """A network with the weights of a file of PyTorch or safetensors.

    The number of classes is that of the file's last layer. The preprocessing is that of the architecture's
    published weights, for want of a better.

    Raises:
        ExportError: no architecture was named; the file holds no weights, or more than weights; or the weights are
            not those of the architecture.
    """
    if request.architecture is None:
        raise ExportError("a checkpoint holds weights and no network; name it: --arch torchvision:NAME")
    path = Path(request.name)
    state, entry, passed_over = read_state(path, request.entry)
    network = request.architecture.network(request.classes)
    state, prefix, left_out = fitted(state, network.module.state_dict())
    notes = [*network.notes]
    if left_out:
        notes.append(f"of {path.name} the weights under {prefix!r} are taken; left out: {listed(left_out)}")
    classes = _classes(state, network.module)
    if classes and not request.classes:
        network = request.architecture.network(classes)
        notes.append(f"{path.name} has {classes} classes, and so has the network now")
    _check(state, network.module, request.architecture, path)
    _check_kinds(state, network.module, path)
    converted = _dtypes(state)
    if converted:
        notes.append(f"{converted} of the {len(state)} tensors of {path.name}: converted to float32")
    if passed_over:
        notes.append(
            f"{path.name} holds weights under {entry!r}, which are taken, and under "
            f"{', '.join(map(repr, passed_over))}; --entry KEY takes others"
        )
    network.module.load_state_dict({name: _float32(value) for name, value in state.items()}, strict=False)
    about = {
        "architecture": request.architecture.spec,
        **network.about,
        "file": path.name,
        "file_sha256": sha256_of(path),
        "entry": entry,
    }
    return replace(network, about=about, notes=tuple(notes))


def _classes(state: State, module: torch.nn.Module) -> int:
    """How many classes the state has, where that is all in which it differs from the network; else 0."""
    own = module.state_dict()
    pairs = [(value.shape, own[name].shape) for name, value in state.items() if name in own]
    other = [(got, want) for got, want in pairs if got != want]
    alike = all(len(got) == len(want) > 0 and got[1:] == want[1:] for got, want in other)
    counts = {(got[0], want[0]) for got, want in other} if alike else set()
    return int(counts.pop()[0]) if len(counts) == 1 else 0


def _check(state: State, module: torch.nn.Module, architecture: Architecture, path: Path) -> None:
    """See that every weight has its place and every place its weight.

    Raises:
        ExportError: the names and shapes that do not fit, a few and a count.
    """
    own = {name: value for name, value in module.state_dict().items() if name.rsplit(".", 1)[-1] not in COUNTERS}
    missing = [name for name in own if name not in state]
    extra = [name for name in state if name not in own]
    shapes = [
        f"{name} {list(value.shape)} for {list(own[name].shape)}"
        for name, value in state.items()
        if name in own and value.shape != own[name].shape
    ]
    problems = [
        f"{len(names)} {what}: {listed(names)}"
        for names, what in ((missing, "are missing"), (extra, "are too many"), (shapes, "have another shape"))
        if names
    ]
    if problems:
        raise ExportError(
            f"the weights of {path} are not those of {architecture.spec}, which has {len(own)} tensors. Of the file's "
            f"{len(state)}: {'; '.join(problems)}. Name the right network with --arch"
        )


def _check_kinds(state: State, module: torch.nn.Module, path: Path) -> None:
    """See that what the network computes with is no code of a quantised file, which would be taken for its value.

    Raises:
        ExportError: whole numbers, or floats of 8 bits, which mean nothing without their scales.
    """
    own = module.state_dict()
    codes = [
        f"{name} in {str(value.dtype).removeprefix('torch.')}"
        for name, value in state.items()
        if name in own and own[name].is_floating_point() and value.dtype not in VALUES
    ]
    if codes:
        raise ExportError(
            f"{path} holds codes for {len(codes)} weights of a float network: {listed(codes)}; without their scales "
            f"they are no values. Save the weights that were quantised, in float32, float16 or bfloat16"
        )


def _dtypes(state: State) -> str:
    """How many tensors have which other type than float32, in words."""
    kinds = Counter(str(value.dtype).removeprefix("torch.") for value in state.values() if _is_other(value))
    return ", ".join(f"{count} in {kind}" for kind, count in kinds.items())


def _is_other(value: torch.Tensor) -> bool:
    return value.is_floating_point() and value.dtype != torch.float32


def _float32(value: torch.Tensor) -> torch.Tensor:
    return value.float() if _is_other(value) else value
