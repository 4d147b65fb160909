"""Networks of a few layers, each with one property that an exporter meets; factories for `python:MODULE:FACTORY`."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

CLASSES = 5


class Small(nn.Module):
    """A convolution with batch norm, a dropout, a last layer."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=4, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(8, classes)
        with torch.no_grad():
            self.bn.running_mean.normal_()
            self.bn.running_var.uniform_(0.5, 2)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.bn(self.conv(x))).mean((2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.dropout(self.features(x)))


class Restless(Small):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(functional.dropout(self.features(x), 0.5))


class Undecided(Small):
    """Random levels, which are brighter than the pictures, take another path than zeros do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.features(x)
        if x.std() > 0:
            y = y * 2
        return self.fc(y)


class Partial(Undecided):
    """As undecided, with one bias beside which every error is small."""

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self.fc.bias[0] = 1e4


class Crowded(Small):
    """Another answer to more than two pictures at once."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = super().forward(x)
        return scores * 2 if len(x) > 2 else scores


class Talkative(Small):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.features(x)
        return self.fc(y), y


class Wide(Small):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)[:, :, None, None]


class Pairs(Small):
    """Two pictures at a time and no other number."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.features(x).reshape(2, 8))


class Picky(Small):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] != 64:
            raise ValueError(f"made for 64 pixels, not {x.shape[-1]}")
        return super().forward(x)


class Silent(Small):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 0


class Stubborn(Small):
    def train(self, mode: bool = True) -> Stubborn:
        return super().train(True)


def quiet() -> nn.Module:
    return Small().eval()


def crowded() -> nn.Module:
    return Crowded().eval()


def half() -> nn.Module:
    return Small().eval().half()


def nothing() -> str:
    return "no network"


def failing() -> nn.Module:
    raise RuntimeError("the weights are elsewhere")
