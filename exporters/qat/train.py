"""Train: steps of SGD on pictures, which go on where they were stopped."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from exporters.base import ExportError
from exporters.qat.graph import FakeQuantised
from exporters.qat.options import Inputs, Labels, Pictures, Training
from exporters.sources.state_dict import unpickled

MOMENTUM = 0.9
FIRST_RATE = 1 / 40  # of the highest learning rate: 1e-4 beside 0.004


def train(
    network: FakeQuantised,
    pictures: Pictures,
    training: Training,
    checkpoint: Checkpoint,
    watch: Callable[[int, int, float], None],
) -> None:
    """Train in place, from the checkpoint if there is one.

    The order of the pictures and the flips follow from seed and epoch alone, and nothing else is drawn, so a training
    that was stopped and one that was not end in the same numbers on the same machine.

    Args:
        network: whose picture has its columns in the last axis, [N, 3, H, W], or in the last but one.
        checkpoint: where the state is kept.
        watch: told (steps done, steps in all, loss) after each step.

    Raises:
        ExportError: no pictures, no such device, or a loss that is no finite number.
    """
    if not len(pictures):
        raise ExportError("training needs pictures; got none")
    device = _device(training.device)
    network.to(device).train()
    decayed, free = network.decayed_and_free()
    groups = [{"params": decayed, "weight_decay": training.weight_decay}, {"params": free, "weight_decay": 0.0}]
    optimiser = torch.optim.SGD(groups, training.highest_rate, MOMENTUM, nesterov=True)
    per_epoch = -(-len(pictures) // training.batch)
    total = per_epoch * training.epochs
    done = checkpoint.load(network, optimiser)
    for step, (inputs, labels) in _ahead(pictures, training, done, total):
        if len(labels):
            for group in optimiser.param_groups:
                group["lr"] = training.highest_rate * rate(step, total, training.warm_up)
            logits = network(torch.from_numpy(inputs).to(device))
            loss = functional.cross_entropy(
                logits, torch.from_numpy(labels).to(device), label_smoothing=training.label_smoothing
            )
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            _check(float(loss.detach()), network, step, checkpoint)
            optimiser.step()
            watch(step + 1, total, float(loss.detach()))
        if (step + 1) % training.checkpoint_steps == 0 or (step + 1) % per_epoch == 0:
            checkpoint.save(network, optimiser, step + 1)
    network.to("cpu").eval()


def rate(step: int, total: int, warm_up: float) -> float:
    """The learning rate of a step as a share of the highest: a linear rise, then half a cosine down to zero."""
    rising = round(total * warm_up)
    if step < rising:
        return FIRST_RATE + (1 - FIRST_RATE) * step / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / (total - rising)))


class Checkpoint:
    """The state of a training in a file.

    Args:
        path: of the file.
        identity: what the training is; the state of another is refused.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.path, self.identity = path, identity

    def save(self, network: nn.Module, optimiser: torch.optim.Optimizer, done: int) -> None:
        """Write the state whole, then rename: a training that is killed here leaves the state before."""
        state = {
            "identity": self.identity,
            "done": done,
            "network": network.state_dict(),
            "optimiser": optimiser.state_dict(),
        }
        half = self.path.with_name(f"{self.path.name}.half")
        with half.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        half.replace(self.path)

    def load(self, network: nn.Module, optimiser: torch.optim.Optimizer) -> int:
        """Take the state, and return the number of steps done; 0 where there is none.

        Raises:
            ExportError: it is that of another training, or no state.
        """
        if not self.path.is_file():
            return 0
        try:
            state = unpickled(self.path)
            identity = state["identity"]
        except (ExportError, KeyError, TypeError, IndexError) as error:
            raise ExportError(
                f"{self.path} is no whole checkpoint of a training, and nothing in it was run; delete it to train "
                f"anew, or choose another name with -o"
            ) from error
        if identity != self.identity:
            raise ExportError(
                f"{self.path} is the checkpoint of another training (another model, other pictures or options); "
                f"delete it to train anew, or choose another name with -o"
            )
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        return int(state["done"])

    def remove(self) -> None:
        """The training is over."""
        self.path.unlink(missing_ok=True)


def _ahead(
    pictures: Pictures, training: Training, done: int, total: int
) -> Iterator[tuple[int, tuple[Inputs, Labels]]]:
    """The batches of the steps to come; the next one is prepared while one is trained on."""
    with ThreadPoolExecutor(1) as worker:
        coming = [worker.submit(_batch, pictures, training, done)] if done < total else []
        for step in range(done, total):
            ready = coming.pop().result()
            if step + 1 < total:
                coming.append(worker.submit(_batch, pictures, training, step + 1))
            yield step, ready


def _batch(pictures: Pictures, training: Training, step: int) -> tuple[Inputs, Labels]:
    epoch, place = divmod(step, -(-len(pictures) // training.batch))
    draw = np.random.default_rng((training.seed, epoch))
    order = draw.permutation(len(pictures))
    flips = draw.random(len(pictures)) < 0.5
    chosen = order[place * training.batch : (place + 1) * training.batch]
    inputs, labels = pictures.take(chosen.tolist())
    if training.flip:
        columns = 3 if inputs.shape[1] == 3 else 2
        mirrored = flips[place * training.batch :][: len(inputs)]
        inputs[mirrored] = np.flip(inputs[mirrored], columns)
    return inputs, labels


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ExportError("device cuda: PyTorch sees no CUDA device here; train with --device cpu")
    return torch.device(name)


def _check(loss: float, network: nn.Module, step: int, checkpoint: Checkpoint) -> None:
    """Stop before a step that would put numbers that are not finite into the weights.

    Raises:
        ExportError: the loss or a gradient is not finite.
    """
    finite = math.isfinite(loss) and all(
        bool(torch.isfinite(each.grad).all()) for each in network.parameters() if each.grad is not None
    )
    if not finite:
        kept = f". The last checkpoint is kept; delete {checkpoint.path} first" if checkpoint.path.is_file() else ""
        raise ExportError(
            f"the training diverged in step {step + 1}: its loss or a gradient is not a finite number. Take a lower "
            f"learning rate{kept}"
        )
