"""Twins: a file as a function of torch, through which gradients flow. Needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from engines.artifact import Artifact
from exporters.twin.network import twin_from_artifact
from exporters.twin.picture import picture_model
from harness.adversarial.models import TWIN, Logits, ledger_of, steps_behind
from noise.adversarial.base import Labels, Pictures
from noise.adversarial.ledger import Ledger
from noise.base import Pipeline


class TwinModel:
    """The twin of a file, behind the differentiable form of the steps that make the file's input.

    Args:
        name: of the twin.
        artifact: whose file it is.
        pipeline: that the artifact declares.
        batch: pictures in one call.
    """

    def __init__(self, name: str, artifact: Artifact, pipeline: Pipeline, batch: int) -> None:
        self.name = name
        self.kind = TWIN
        self._artifact = artifact
        self._batch = batch
        self._behind = Pipeline(steps_behind(pipeline))
        self._model = picture_model(twin_from_artifact(artifact), self._behind, artifact.output_kind)

    def describe(self) -> Mapping[str, Any]:
        return {
            "name": self.name,
            "kind": TWIN,
            "sha256": self._artifact.sha256,
            "steps": self._behind.describe(),
            "facts": {"torch": torch.__version__},
        }

    def logits(self, pictures: Pictures) -> Logits:
        parts = [pictures[at : at + self._batch] for at in range(0, len(pictures), self._batch)]
        with torch.no_grad():
            answers = [self._model(torch.from_numpy(np.ascontiguousarray(part))).double().numpy() for part in parts]
        return np.concatenate(answers)

    def gradients(self) -> Any:
        return self._model

    def ledger(self, needs: str) -> Ledger:
        return ledger_of(self, self._batch, needs)

    def gradient_sizes(self, pictures: Pictures, labels: Labels) -> npt.NDArray[np.float64]:
        """[n]: the greatest absolute value of the gradient of each picture's cross-entropy."""
        inputs = torch.from_numpy(pictures).requires_grad_()
        loss = torch.nn.functional.cross_entropy(self._model(inputs), torch.from_numpy(labels), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, inputs)
        return gradient.abs().flatten(1).amax(dim=1).double().numpy()
