"""A small vision transformer of the demo's classes, trained in a few minutes: something with large matrix products.

Needs PyTorch: ``pip install 'qharness[cpu,torch]'``. Its patches are embedded by four convolutions, with which a
transformer learns from few pictures (Xiao et al., "Early Convolutions Help Transformers See Better", 2021).
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from engines.artifact import Artifact, write_sidecar
from engines.onnx_file import artifact_from_onnx
from harness.demo.shapes import CLASSES
from harness.demo.train import Recipe, fit, photographs
from noise.presets import pipeline_from_preset

SIDE = 128
WIDTH = 128
HEADS = 4
DEPTH = 4
STEM = (3, 32, 64, 128, WIDTH)  # channels; every convolution halves the side
TOKENS = (SIDE // 2 ** (len(STEM) - 1)) ** 2

RECIPE = Recipe(train_per_class=224, stages=((SIDE, 24),), batch_size=64, peak_learning_rate=1.5e-3, noise_sigma=0.03)


class Attention(nn.Module):
    """Every token looks at every token, with as many heads as `HEADS`; float32 [pictures, tokens, WIDTH]."""

    def __init__(self) -> None:
        super().__init__()
        self.queries_keys_values = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        parts = self.queries_keys_values(tokens).reshape(-1, TOKENS, 3, HEADS, WIDTH // HEADS)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4).unbind(0)
        weights = (queries @ keys.transpose(-2, -1) * (WIDTH // HEADS) ** -0.5).softmax(dim=-1)
        return cast(Tensor, self.out((weights @ values).transpose(1, 2).reshape(-1, TOKENS, WIDTH)))


class Layer(nn.Module):
    """Attention, then two products on each token alone, each added to what went in."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(WIDTH), Attention())
        self.alone = nn.Sequential(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(tokens)
        return cast(Tensor, tokens + self.alone(tokens))


class VisionTransformer(nn.Module):
    """float32 [pictures, 3, 128, 128], normalised, to float32 logits [pictures, 16]."""

    def __init__(self) -> None:
        super().__init__()
        stem: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(STEM):
            stem += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.stem = nn.Sequential(*stem)
        self.places = nn.Parameter(torch.randn(1, TOKENS, WIDTH) * 0.02)
        self.layers = nn.Sequential(*(Layer() for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, len(CLASSES))

    def forward(self, pictures: Tensor) -> Tensor:
        tokens = self.stem(pictures).flatten(2).transpose(1, 2) + self.places
        return cast(Tensor, self.head(self.norm(self.layers(tokens)).mean(dim=1)))


def trained(path: Path, threads: int) -> Artifact:
    """Draw pictures, train on them and write the ONNX file with its sidecar."""
    torch.set_num_threads(threads)
    pictures, labels = photographs("train", per_class=RECIPE.train_per_class, seed=RECIPE.seed)
    torch.manual_seed(RECIPE.seed)
    network = VisionTransformer()
    fit(network, pictures, labels, RECIPE)
    torch.onnx.export(
        network,
        (torch.zeros(1, 3, SIDE, SIDE),),
        str(path),
        input_names=["input"],
        output_names=["logits"],
        dynamic_axes={"input": {0: "pictures"}, "logits": {0: "pictures"}},
        opset_version=17,
        dynamo=False,
    )
    artifact = replace(
        artifact_from_onnx(path),
        preprocessing=tuple(pipeline_from_preset("imagenet", size=SIDE).describe()),
        classes=CLASSES,
        made_by={"tool": "benchmarks/vit.py", "torch": torch.__version__},
    )
    write_sidecar(artifact)
    return artifact
