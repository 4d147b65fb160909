"""Architectures: what torch's two exporters write of torchvision's networks has a twin, with the same gradients."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")
models = pytest.importorskip("torchvision.models")

from torchvision.models.convnext import CNBlockConfig, ConvNeXt  # noqa: E402
from torchvision.models.swin_transformer import SwinTransformer  # noqa: E402
from torchvision.models.vision_transformer import VisionTransformer  # noqa: E402

from exporters.twin.network import Twin  # noqa: E402

SIZE = 64
CLASSES = 10

# The large ones with fewer and narrower layers of the same kinds.
NETWORKS: dict[str, Callable[[], Any]] = {
    "resnet18": functools.partial(models.resnet18, num_classes=CLASSES),
    "mobilenet_v2": functools.partial(models.mobilenet_v2, num_classes=CLASSES),
    "mobilenet_v3_small": functools.partial(models.mobilenet_v3_small, num_classes=CLASSES),
    "efficientnet_b0": functools.partial(models.efficientnet_b0, num_classes=CLASSES),
    "regnet_y_400mf": functools.partial(models.regnet_y_400mf, num_classes=CLASSES),
    "squeezenet1_1": functools.partial(models.squeezenet1_1, num_classes=CLASSES),
    "densenet": functools.partial(models.DenseNet, 8, (2, 2), 16, num_classes=CLASSES),
    "convnext": lambda: ConvNeXt([CNBlockConfig(16, 32, 2), CNBlockConfig(32, None, 2)], num_classes=CLASSES),
    "vit": lambda: VisionTransformer(SIZE, 16, 2, 2, 32, 64, num_classes=CLASSES),
    "swin": lambda: SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=CLASSES),
}
QUICK = {"convnext", "vit", "swin", "densenet"}


def network(name: str) -> Any:
    """With random weights, none of them zero, and statistics as if it had learnt."""
    torch.manual_seed(0)
    made = NETWORKS[name]().eval()
    draw = torch.Generator().manual_seed(1)
    for values in made.parameters():
        if not values.detach().any():
            torch.nn.init.normal_(values, 0, 0.1, generator=draw)
    for key, values in made.named_buffers():
        if key.endswith("running_var"):
            torch.nn.init.uniform_(values, 0.05, 0.2, generator=draw)
        elif key.endswith("running_mean"):
            torch.nn.init.normal_(values, 0, 0.1, generator=draw)
    return made


def exported(module: Any, path: Path, dynamo: bool) -> onnx.ModelProto:
    """By the current exporter, or by the one before it, for batches of any length."""
    example = torch.zeros(2, 3, SIZE, SIZE)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            pytest.importorskip("onnxscript", reason="torch's current exporter needs onnxscript")
            shapes = ({0: torch.export.Dim("N")},)
            torch.onnx.export(module, (example,), str(path), dynamo=True, dynamic_shapes=shapes, verbose=False)
        else:
            axes = {"x": {0: "N"}}
            torch.onnx.export(module, (example,), str(path), dynamo=False, input_names=["x"], dynamic_axes=axes)
    return onnx.load(str(path))


@pytest.mark.parametrize(
    "dynamo", [pytest.param(False, id="script"), pytest.param(True, id="dynamo", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in NETWORKS]
)
def test_a_twin_has_the_scores_and_the_gradients_of_the_network(name: str, dynamo: bool, tmp_path: Path) -> None:
    module = network(name)
    twin = Twin(exported(module, tmp_path / "model.onnx", dynamo)).double()
    module.double()
    start = torch.from_numpy(np.random.default_rng(2).normal(0, 1, (3, 3, SIZE, SIZE)))
    theirs, ours = start.clone().requires_grad_(), start.clone().requires_grad_()
    expected, found = module(theirs), twin(ours)
    assert torch.equal(found.argmax(1), expected.argmax(1))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * expected.std().item())
    expected[:, 0].sum().backward()
    found[:, 0].sum().backward()
    # The exporter folds batch norms in float32, which carries a few activations to the other side of a ReLU's corner.
    assert (ours.grad - theirs.grad).norm() <= 1e-2 * theirs.grad.norm()
