"""What can be asked of training, and what is refused: before PyTorch is needed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from engines.artifact import Artifact
from exporters.base import ExportError

Inputs = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

BITS = range(2, 9)
TARGET = "ort-cpu"
TRAINED_ON = "trained_on"  # in a sidecar's made_by: hashes of the pictures' bytes
DEVICES = ("cpu", "cuda")
RECIPE_RATE, RECIPE_BATCH = 0.004, 512


@dataclass(frozen=True)
class Bits:
    """How many bits each kind of number has.

    Args:
        weights: of all layers but the first and the last.
        activations: that these layers read. What no layer reads (the inputs of an addition, of a mean) has 8: the
            papers leave it in float, and an integer kernel has 8 bits for it anyway.
        first_last: of weights and activations of the first and the last layer.
    """

    weights: int
    activations: int
    first_last: int = 8

    def __post_init__(self) -> None:
        for what, got in asdict(self).items():
            if got not in BITS:
                raise ExportError(f"{what}: expected {BITS[0]} to {BITS[-1]} bits; got {got}")

    @property
    def runs_as(self) -> str:
        """What a device computes with, in words: no kernel here has fewer than 8 bits."""
        counts = sorted({self.weights, self.activations, self.first_last})
        return f"levels of {' and '.join(map(str, counts))} bits on 8-bit kernels" if counts != [8] else "8-bit kernels"


@dataclass(frozen=True)
class Training:
    """How a network is trained: MQBench's recipe for ResNet-18, shortened to what fine-tuning needs.

    Its learning rate is 0.004 for 512 pictures at once; the default is that in proportion to the batch. Folded batch
    norms leave nothing that would forgive a higher one.

    SGD with Nesterov's momentum of 0.9; the learning rate rises linearly and falls as half a cosine to zero. Source:
    ModelTC/mqbench-paper, qbench_zoo, "academic" configurations.

    Args:
        epochs: passes over all pictures.
        batch: pictures per step.
        learning_rate: at its highest; ``None`` for that of the recipe.
        warm_up: share of the steps, 0 to 1, in which it rises.
        weight_decay: of weights and PACT's clips; biases and what other quantisers learn have none.
        label_smoothing: 0 to 1.
        flip: whether pictures are mirrored, every other one by chance. Nothing else is changed of them.
        seed: of their order and the flips.
        checkpoint_steps: a checkpoint is written after so many steps, and after each epoch.
        device: "cpu" or "cuda".
    """

    epochs: int = 5
    batch: int = 32
    learning_rate: float | None = None
    warm_up: float = 0.05
    weight_decay: float = 1e-4
    label_smoothing: float = 0.1
    flip: bool = False
    seed: int = 0
    checkpoint_steps: int = 200
    device: str = "cpu"

    def __post_init__(self) -> None:
        for what in ("epochs", "batch", "checkpoint_steps"):
            if getattr(self, what) < 1:
                raise ExportError(f"{what}: expected 1 or more; got {getattr(self, what)}")
        if not self.highest_rate > 0:
            raise ExportError(f"learning_rate: expected a positive number; got {self.learning_rate}")
        for what in ("warm_up", "label_smoothing"):
            if not 0 <= getattr(self, what) < 1:
                raise ExportError(f"{what}: expected a share from 0 to 1; got {getattr(self, what)}")
        if self.device not in DEVICES:
            raise ExportError(f"device: expected one of {', '.join(DEVICES)}; got {self.device!r}")

    @property
    def highest_rate(self) -> float:
        """The learning rate at its highest."""
        return rate_of_batch(self.batch) if self.learning_rate is None else self.learning_rate

    def describe(self) -> dict[str, Any]:
        """The training as JSON, with the learning rate that it takes."""
        return {**asdict(self), "learning_rate": self.highest_rate}


def rate_of_batch(batch: int) -> float:
    """The recipe's learning rate at its highest, for so many pictures per step."""
    return RECIPE_RATE * batch / RECIPE_BATCH


@dataclass(frozen=True)
class Wish:
    """What is to be trained.

    Args:
        method: row of `exporters.TRAINED`.
        bits: of weights and activations.
        training: how.
    """

    method: str
    bits: Bits
    training: Training

    def describe(self) -> dict[str, Any]:
        """The wish as JSON."""
        return {"method": self.method, "bits": asdict(self.bits), "training": self.training.describe()}


class Pictures(Protocol):
    """Labelled pictures, prepared when they are asked for."""

    def __len__(self) -> int: ...

    def take(self, places: Sequence[int]) -> tuple[Inputs, Labels]:
        """The inputs [n, ...] as the network takes them, and labels [n], of those pictures that can be read."""


@dataclass(frozen=True)
class Surroundings:
    """What a training needs beside the model.

    Args:
        pictures: to train on.
        identity: a hash of them and of their preprocessing.
        contents: hashes of their encoded bytes, by which a run knows them again.
        answers: (a model, inputs) -> what an engine with integer kernels says of them, [n, classes].
        watch: told (steps done, steps in all, loss) after each step.
    """

    pictures: Pictures
    identity: str
    contents: Collection[str]
    answers: Callable[[Artifact, Inputs], npt.NDArray[np.float32]]
    watch: Callable[[int, int, float], None]
