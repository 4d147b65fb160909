"""Robust accuracy under our gradient attacks and those of foolbox and torchattacks, on one model and the same pictures.

Both packages have to be installed beside qharness[torch] (``pip install foolbox torchattacks``); PyTorch models are
made of the ONNX files' own weights. ResNet-18 is added where QHARNESS_DATA names a folder with ``models`` and
``imagenet``.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from benchmarks.figure import Figure
from engines.artifact import Artifact
from engines.onnx_file import artifact_from_onnx
from harness.demo.embedded import demo_recipe
from harness.demo.train import ShapesNet, normalise
from harness.estimate import paired_difference, proportion
from harness.preprocess import compile_tree
from harness.registry import attack_from_text
from harness.samples import samples_from_data
from noise.adversarial.base import Budget, Pictures, budget_from_text
from noise.presets import pipeline_from_preset
from noise.seed import generator

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # foolbox takes a name of SciPy that is about to go
    import foolbox
    import torchattacks

Row = dict[str, str | int | float]
Peer = Callable[[nn.Module, Tensor, Tensor, float], Tensor]

SEED, SIZE, BATCH = 0, 224, 16
MARGIN = 0.01  # of robust accuracy, by which a peer may be stronger

DEMO_PICTURES, RESNET_PICTURES = 112, 50


def _foolbox(linf: Any, l2: Any, l1: Any) -> Callable[[str], Peer]:
    """An attack of foolbox for each norm."""

    def peer(norm: str) -> Peer:
        chosen = {"linf": linf, "l2": l2, "l1": l1}[norm]

        def run(model: nn.Module, pictures: Tensor, labels: Tensor, epsilon: float) -> Tensor:
            wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
            clipped: Tensor = chosen(wrapped, pictures, foolbox.criteria.Misclassification(labels), epsilons=epsilon)[1]
            return clipped

        return run

    return peer


def _torchattacks(make: Callable[[nn.Module, str, float], Any]) -> Callable[[str], Peer]:
    """An attack of torchattacks, which calls norms Linf and L2."""

    def peer(norm: str) -> Peer:
        def run(model: nn.Module, pictures: Tensor, labels: Tensor, epsilon: float) -> Tensor:
            attacked: Tensor = make(model, norm.capitalize(), epsilon)(pictures, labels)
            return attacked

        return run

    return peer


_FB = foolbox.attacks
_PGD = {"rel_stepsize": 0.075, "steps": 20}
FOOLBOX, TORCHATTACKS = "foolbox", "torchattacks"

# our attack -> (whose, its like, the norms that it has)
PEERS: dict[str, tuple[tuple[str, Callable[[str], Peer], tuple[str, ...]], ...]] = {
    "fgsm": (
        (
            FOOLBOX,
            _foolbox(_FB.LinfFastGradientAttack(), _FB.L2FastGradientAttack(), _FB.L1FastGradientAttack()),
            ("linf", "l2", "l1"),
        ),
    ),
    "pgd:steps=20": (
        (FOOLBOX, _foolbox(_FB.LinfPGD(**_PGD), _FB.L2PGD(**_PGD), _FB.L1PGD(**_PGD)), ("linf", "l2", "l1")),
        (
            TORCHATTACKS,
            _torchattacks(lambda model, norm, eps: torchattacks.PGD(model, eps=eps, alpha=0.075 * eps, steps=20)),
            ("linf",),
        ),
    ),
    "mi-fgsm:steps=20": (
        (
            TORCHATTACKS,
            _torchattacks(lambda model, norm, eps: torchattacks.MIFGSM(model, eps=eps, alpha=0.075 * eps, steps=20)),
            ("linf",),
        ),
    ),
    "apgd-ce:steps=20": (
        (
            TORCHATTACKS,
            _torchattacks(lambda model, norm, eps: torchattacks.APGD(model, norm=norm, eps=eps, steps=20, loss="ce")),
            ("linf", "l2"),
        ),
    ),
    "apgd-dlr:steps=20": (
        (
            TORCHATTACKS,
            _torchattacks(lambda model, norm, eps: torchattacks.APGD(model, norm=norm, eps=eps, steps=20, loss="dlr")),
            ("linf", "l2"),
        ),
    ),
    "apgd-t:steps=20,targets=3": (
        (
            TORCHATTACKS,
            _torchattacks(
                lambda model, norm, eps: torchattacks.APGDT(model, norm=norm, eps=eps, steps=20, n_classes=4)
            ),
            ("linf", "l2"),
        ),
    ),
    "fab-t:steps=20,targets=3": (
        (
            TORCHATTACKS,
            _torchattacks(
                lambda model, norm, eps: torchattacks.FAB(
                    model, norm=norm, eps=eps, steps=20, multi_targeted=True, n_classes=4
                )
            ),
            ("linf", "l2"),
        ),
    ),
}


# The demo network is small, so it gets all attacks. ResNet-18 falls to everything at 2/255.
DEMO_CASES = {
    "1/255": tuple(PEERS),
    "l2:0.5": ("fgsm", "pgd:steps=20"),
    "l1:20": ("fgsm", "pgd:steps=20"),
}
RESNET_CASES = dict.fromkeys(("0.5/255", "2/255"), ("fgsm", "pgd:steps=20,early=true"))


class Counting(nn.Module):
    """A network that is fed pictures in [0, 1], and counts them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.passes = 0
        self.eval()  # torchattacks puts a model back into the mode that it finds it in

    def forward(self, pictures: Tensor) -> Tensor:
        self.passes += len(pictures)
        # Through a flat view gradients come back contiguous, which torchattacks' FAB takes for granted.
        logits: Tensor = self.network(normalise(pictures.flatten(1).view_as(pictures)))
        return logits


@dataclass(frozen=True)
class Subject:
    """A network with its pictures [n, 3, H, W] in [0, 1] and labels [n]."""

    name: str
    model: Counting
    pictures: Pictures
    labels: npt.NDArray[np.int64]

    def robust(self, pictures: Pictures) -> npt.NDArray[np.float64]:
        """[n]: 1 where a picture is read right."""
        with torch.no_grad():
            read = [self.model(torch.from_numpy(each)).argmax(1) for each in np.array_split(pictures, _parts(pictures))]
        return np.asarray(torch.cat(read).numpy() == self.labels, np.float64)


def measure(folder: Path) -> Figure:
    """Each attack beside its likes."""
    rows: list[Row] = []
    for subject, text, budget in _cases():
        rows += _rows(subject, text, budget_from_text(budget))
        print(rows[-1], flush=True)
    weaker = [row for row in rows if float(row["ours_minus_theirs_points"]) > 100 * MARGIN]
    return Figure(
        "Attacks beside those of foolbox and torchattacks",
        rows,
        f"Of {len(rows)} comparisons ours leaves a higher robust accuracy by more than 1 point in {len(weaker)}"
        f"{_named(weaker)}, and a lower one by more than 1 point in "
        f"{sum(float(row['ours_minus_theirs_points']) < -100 * MARGIN for row in rows)}.\n\n"
        "Robust accuracy over all n pictures, those that are misread at once among them, with 95 % intervals; the "
        "difference is paired on the same pictures. Steps, step sizes and starts are as many and as long; random "
        "starts differ. Passes: pictures through the network. With `early` misread pictures are let go, which the "
        "peers cannot do.",
    )


def _named(rows: list[Row]) -> str:
    return f" ({', '.join(str(row['attack']) for row in rows)})" if rows else ""


def _cases() -> Iterator[tuple[Subject, str, str]]:
    demo = _demo()
    yield from ((demo, text, budget) for budget, texts in DEMO_CASES.items() for text in texts)
    if data := os.environ.get("QHARNESS_DATA"):
        subject = _resnet18(Path(data))
        yield from ((subject, text, budget) for budget, texts in RESNET_CASES.items() for text in texts)


def _rows(subject: Subject, text: str, budget: Budget) -> Iterator[Row]:
    mine = attack_from_text(text, budget)
    name = text.replace(",early=true", "")
    likes = [(whose, make(budget.norm)) for whose, make, norms in PEERS[name] if budget.norm in norms]
    if not likes:
        return
    rngs = [generator(SEED, text, str(number)) for number in range(len(subject.labels))]
    subject.model.passes = 0
    parts = np.array_split(np.arange(len(subject.labels)), _parts(subject.pictures))
    found = np.concatenate(
        [
            mine(subject.model, subject.pictures[part], subject.labels[part], [rngs[number] for number in part])
            for part in parts
        ]
    )
    passes = subject.model.passes
    if not budget.holds(found, subject.pictures).all():
        raise RuntimeError(f"{text} left the budget {budget.name}")
    ours = subject.robust(found)
    for whose, peer in likes:
        torch.manual_seed(SEED)
        subject.model.passes = 0
        theirs = subject.robust(np.concatenate([_peer(subject, peer, part, budget.epsilon) for part in parts]))
        difference = paired_difference(theirs, ours)
        yield {
            "network": subject.name,
            "n": len(ours),
            "budget": budget.name,
            "attack": text,
            "robust_percent": _interval(ours),
            "beside": whose,
            "its_robust_percent": _interval(theirs),
            "ours_minus_theirs_points": round(100 * (difference.value or 0.0), 1),
            "passes": passes,
            "its_passes": subject.model.passes,
        }


def _peer(subject: Subject, peer: Peer, part: npt.NDArray[Any], epsilon: float) -> Pictures:
    pictures, labels = torch.from_numpy(subject.pictures[part]), torch.from_numpy(subject.labels[part])
    return np.asarray(peer(subject.model, pictures, labels, epsilon).detach().numpy())


def _interval(right: npt.NDArray[np.float64]) -> str:
    estimate = proportion(right)
    value, low, high = (100 * (number or 0.0) for number in (estimate.value, estimate.low, estimate.high))
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def _parts(pictures: Pictures) -> int:
    return -(-len(pictures) // BATCH)


def _demo() -> Subject:
    recipe = demo_recipe()
    path = Path(recipe.model)
    network = ShapesNet().eval()
    network.fold()
    network.load_state_dict(_weights(path), strict=True)
    return _subject("demo", network, artifact_from_onnx(path), recipe.data, DEMO_PICTURES)


def _resnet18(data: Path) -> Subject:
    path = data / "models" / "resnet18.onnx"
    network = resnet18()
    network.load_state_dict(_weights(path), strict=False)  # only num_batches_tracked is missing
    return _subject("resnet18", network, artifact_from_onnx(path), str(data / "imagenet" / "photos"), RESNET_PICTURES)


def _weights(path: Path) -> dict[str, Tensor]:
    """Initialisers by name, which are those of the PyTorch module that the file was made of."""
    return {
        each.name: torch.from_numpy(onnx.numpy_helper.to_array(each).copy())
        for each in onnx.load(str(path)).graph.initializer
    }


def _subject(name: str, network: nn.Module, artifact: Artifact, data: str, pictures: int) -> Subject:
    tree = compile_tree([pipeline_from_preset("unit", size=SIZE)])
    samples = samples_from_data(data, "", artifact, SEED).samples[:pictures]
    tensors = [prepared.tensor for sample in samples for prepared in tree.walk_sample(sample, SEED)]
    ready = [tensor for tensor in tensors if tensor is not None]
    if len(ready) != len(samples):
        raise RuntimeError(f"{len(samples) - len(ready)} of {len(samples)} pictures in {data} cannot be read")
    labels = np.array([sample.label for sample in samples], np.int64)
    return Subject(name, Counting(network), np.stack(ready).astype(np.float32), labels)
