"""Files of weights for a network of a few layers, and the way in which `qharness export` reads them."""

from __future__ import annotations

from pathlib import Path

import torch

from exporters.sources.base import Network
from harness.export import ExportJob, network_from_job
from tests.exporters.networks import CLASSES, Small

ARCH = "python:tests.exporters.networks:quiet"


def weights(classes: int = CLASSES) -> dict[str, torch.Tensor]:
    torch.manual_seed(7)
    return Small(classes).state_dict()


def loaded(path: Path, arch: str = ARCH, **changes: object) -> Network:
    return network_from_job(ExportJob(f"checkpoint:{path}", arch=arch, **changes))


def saved(folder: Path, content: object) -> Path:
    torch.save(content, folder / "weights.pt")
    return folder / "weights.pt"


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in weights().items()}
