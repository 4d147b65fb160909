"""What all gradient attacks share: the door for pictures, looks at the model, and the best so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from noise.adversarial.base import Attack, Labels, Pictures
from noise.adversarial.gradient.ball import Generators
from noise.base import NoiseError

Model = Callable[[Tensor], Tensor]
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # (logits [n, classes], labels [n], targets [n]) -> [n], to be raised
Search = Callable[[Model, Tensor, Tensor, Generators], Tensor]  # (model, originals, labels, generators) -> pictures


def attack_from_search(search: Search) -> Attack:
    """The attack that hands `search` the pictures that the model reads right, and returns all others as they are.

    Pictures go to the device of the model's parameters, and come back as NumPy arrays of their own.
    """

    def attack(model: Any, pictures: Pictures, labels: Labels, rngs: Sequence[np.random.Generator]) -> Pictures:
        if not len(pictures) == len(labels) == len(rngs):
            raise NoiseError(
                f"an attack takes a label and a generator for each picture; got {len(pictures)} pictures, "
                f"{len(labels)} labels and {len(rngs)} generators"
            )
        attacked = pictures.copy()
        if not len(pictures):
            return attacked
        device = _device_of(model)
        originals = torch.from_numpy(attacked).to(device)
        truth = torch.from_numpy(np.asarray(labels, np.int64)).to(device)
        with torch.no_grad():
            right = (model(originals).argmax(1) == truth).nonzero().flatten()
        if len(right):
            kept = right.cpu().numpy()
            found = search(model, originals[right], truth[right], [rngs[row] for row in kept])
            attacked[kept] = found.detach().cpu().numpy()
        return attacked

    return attack


@dataclass(frozen=True)
class Aim:
    """What a search wants of its pictures: a loss to raise.

    Args:
        loss: of `noise.adversarial.gradient.losses`, or one like them.
        labels: [n], true classes.
        targets: [n], the classes that a targeted loss wants instead; untargeted ones do not look at them.
    """

    loss: Loss
    labels: Tensor
    targets: Tensor

    def of(self, rows: Tensor) -> Aim:
        """The same for some of the pictures."""
        return replace(self, labels=self.labels[rows], targets=self.targets[rows])


class Look(NamedTuple):
    """What one pass says of pictures: losses [n], whether each is misread [n], and gradients like the pictures."""

    losses: Tensor
    misread: Tensor
    gradients: Tensor


def look(model: Model, pictures: Tensor, aim: Aim) -> Look:
    """One pass forward and one back. Where a gradient is not a number, it counts as none."""
    leaf = pictures.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(leaf)
        losses = aim.loss(logits, aim.labels, aim.targets)
        (gradients,) = torch.autograd.grad(losses.sum(), leaf)
    return Look(losses.detach(), logits.detach().argmax(1) != aim.labels, gradients.nan_to_num(0, 0, 0))


def glance(model: Model, pictures: Tensor, aim: Aim) -> Look:
    """`look` without the way back: the gradients are zero."""
    with torch.no_grad():
        logits = model(pictures)
        losses = aim.loss(logits, aim.labels, aim.targets)
    return Look(losses, logits.argmax(1) != aim.labels, torch.zeros_like(pictures))


class Best:
    """For each picture the best so far: misread before read right, then the higher loss."""

    def __init__(self, originals: Tensor) -> None:
        self.pictures = originals.clone()
        self.misread = torch.zeros(len(originals), dtype=torch.bool, device=originals.device)
        self.losses = torch.full((len(originals),), -torch.inf, device=originals.device)

    def keep(self, rows: Tensor, pictures: Tensor, seen: Look) -> None:
        """Compare what was seen of the pictures in some rows with the best of these."""
        higher = seen.losses > self.losses[rows]
        better = (seen.misread & ~self.misread[rows]) | ((seen.misread == self.misread[rows]) & higher)
        chosen = rows[better]
        self.pictures[chosen] = pictures[better]
        self.misread[chosen] = seen.misread[better]
        self.losses[chosen] = seen.losses[better]

    def standing(self) -> Tensor:
        """The rows for which nothing misread was found yet."""
        return (~self.misread).nonzero().flatten()


def _device_of(model: Any) -> torch.device:
    parameters = model.parameters() if isinstance(model, torch.nn.Module) else ()
    return next((each.device for each in parameters), torch.device("cpu"))
