"""Our attacks break no fewer pictures than those of foolbox and torchattacks, on one small network.

`benchmarks/attacks.py` does the same with trained networks. Neither package is among what development needs:
torchattacks pins an old requests, and foolbox imports a name that SciPy is about to drop.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="gradients need torch")

from harness.registry import attack_from_text  # noqa: E402 - behind the skip
from noise.adversarial.base import Budget  # noqa: E402
from tests.noise.adversarial.conformance import rngs  # noqa: E402

PICTURES, SIDE, CLASSES = 300, 8, 6
EPSILON = {"linf": 0.012, "l2": 0.12, "l1": 0.7}
STEPS = 20
MARGIN = 0.01  # of robust accuracy


def package(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason=f"{name} is not installed: pip install {name}")


class Small(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Two layers with random weights, whose labels are its own answers."""

    def __init__(self) -> None:
        super().__init__()
        rng = np.random.default_rng(1)
        self.inner = torch.nn.Parameter(torch.from_numpy(rng.normal(0, 0.2, (3 * SIDE * SIDE, 32)).astype(np.float32)))
        self.outer = torch.nn.Parameter(torch.from_numpy(rng.normal(0, 1, (32, CLASSES)).astype(np.float32)))

    def forward(self, pictures: Any) -> Any:
        return torch.tanh((pictures - 0.5).flatten(1) @ self.inner) @ self.outer


@pytest.fixture(scope="module")
def case() -> tuple[Any, Any, Any]:
    model = Small().eval()
    drawn = np.random.default_rng(2).uniform(-0.1, 1.1, (PICTURES, 3, SIDE, SIDE))
    pictures = torch.from_numpy(np.clip(drawn, 0, 1).astype(np.float32))
    return model, pictures, model(pictures).argmax(1)


def robust(case: tuple[Any, Any, Any], attacked: Any) -> float:
    model, _, labels = case
    return float((model(torch.as_tensor(attacked)).argmax(1) == labels).float().mean())


def ours(case: tuple[Any, Any, Any], text: str, norm: str) -> float:
    model, pictures, labels = case
    made = attack_from_text(text, Budget(norm, EPSILON[norm]))
    return robust(case, made(model, pictures.numpy(), labels.numpy(), rngs(PICTURES)))


def check(case: tuple[Any, Any, Any], text: str, norm: str, theirs: float) -> None:
    assert 0.05 < theirs < 0.95, "the budget tells nothing apart"
    assert ours(case, text, norm) <= theirs + MARGIN


@pytest.mark.parametrize("norm", EPSILON)
@pytest.mark.parametrize("text", ["fgsm", f"pgd:steps={STEPS}"])
def test_no_weaker_than_foolbox(case: tuple[Any, Any, Any], text: str, norm: str) -> None:
    attacks = package("foolbox").attacks
    steps = {"rel_stepsize": 0.075, "steps": STEPS}
    makes: dict[tuple[str, str], Callable[[], Any]] = {
        ("fgsm", "linf"): attacks.LinfFastGradientAttack,
        ("fgsm", "l2"): attacks.L2FastGradientAttack,
        ("fgsm", "l1"): attacks.L1FastGradientAttack,
        ("pgd", "linf"): lambda: attacks.LinfPGD(**steps),
        ("pgd", "l2"): lambda: attacks.L2PGD(**steps),
        ("pgd", "l1"): lambda: attacks.L1PGD(**steps),
    }
    model, pictures, labels = case
    torch.manual_seed(0)
    wrapped = package("foolbox").PyTorchModel(model, bounds=(0, 1))
    _, found, _ = makes[text.split(":", maxsplit=1)[0], norm]()(wrapped, pictures, labels, epsilons=EPSILON[norm])
    check(case, text, norm, robust(case, found))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("text", ["mi-fgsm", "apgd-ce", "apgd-dlr", "apgd-t:targets=3", "fab-t:targets=3"])
def test_no_weaker_than_torchattacks(case: tuple[Any, Any, Any], text: str, norm: str) -> None:
    if (text, norm) == ("mi-fgsm", "l2"):
        pytest.skip("torchattacks has it in linf alone")
    peers, epsilon = package("torchattacks"), EPSILON[norm]
    model, pictures, labels = case
    options = {"norm": norm.capitalize(), "eps": epsilon, "steps": STEPS}
    makes: dict[str, Callable[[], Any]] = {
        "mi-fgsm": lambda: peers.MIFGSM(model, eps=epsilon, alpha=0.075 * epsilon, steps=STEPS),
        "apgd-ce": lambda: peers.APGD(model, **options, loss="ce"),
        "apgd-dlr": lambda: peers.APGD(model, **options, loss="dlr"),
        "apgd-t": lambda: peers.APGDT(model, **options, n_classes=4),
        "fab-t": lambda: peers.FAB(model, **options, multi_targeted=True, n_classes=4),
    }
    found = makes[text.split(":", maxsplit=1)[0]]()(pictures, labels)
    separator = "," if ":" in text else ":"
    check(case, f"{text}{separator}steps={STEPS}", norm, robust(case, found))


@pytest.mark.parametrize("norm", EPSILON)
def test_climbing_on_changes_no_robust_accuracy(case: tuple[Any, Any, Any], norm: str) -> None:
    for text in ("pgd:steps=20", "apgd-ce:steps=20", "apgd-dlr:steps=20"):
        assert ours(case, f"{text},early=true", norm) == ours(case, text, norm)
