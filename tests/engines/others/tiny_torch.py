"""The tiny network of `tests.engines.tiny` in torch, with its weights, for the scripts beside this file."""

from __future__ import annotations

from typing import Any

import torch
from onnx import numpy_helper
from torch import nn

from tests.engines.tiny import tiny

WEIGHTS = {each.name: torch.tensor(numpy_helper.to_array(each)) for each in tiny().graph.initializer}


class Tiny(nn.Module):
    """float32 [N, 3, 32, 32] to scores [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.gemm = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1), nn.Linear(8, 10)
        for number, layer in enumerate((self.conv1, self.conv2, self.gemm), start=1):
            layer.weight.data, layer.bias.data = WEIGHTS[f"w{number}"], WEIGHTS[f"b{number}"]

    def forward(self, x: Any) -> Any:
        first = torch.relu(self.conv1(x))
        second = torch.relu(self.conv2(first) + first)
        return self.gemm(nn.functional.adaptive_avg_pool2d(second, 1).flatten(1))
