"""Weights: drawn by a seed, and known by a hash."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch


def weights_sha256(module: torch.nn.Module) -> str:
    """SHA-256 over names and values of parameters and buffers, which is the same for every file that holds them."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, torch.Tensor):
            digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def drawn(seed: int, make: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    """A network with weights that a seed determines; the state of PyTorch's own generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def with_a_last_layer(module: torch.nn.Module) -> torch.nn.Module:
    """The network with a last layer that is not all zeros, as transformers begin: every answer would be the same."""
    for layer in [each for each in module.modules() if isinstance(each, torch.nn.Linear)][-1:]:
        if not layer.weight.any():
            torch.nn.init.normal_(layer.weight, std=0.02)
    return module
