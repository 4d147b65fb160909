"""Make `shapes.onnx`: draw training pictures, train a small residual network, fold and export it.

Needs PyTorch, which the rest of the package does not: ``pip install 'qharness[cpu,torch]'``, then
``python -m harness.demo.train``. `training.json` records how long it took and what it reached.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import platform
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from engines.artifact import sidecar_path, write_sidecar
from engines.onnx_file import artifact_from_onnx
from harness.demo.shapes import CLASSES, JPEG_QUALITY, draw_numbered
from noise.presets import IMAGENET_MEAN, IMAGENET_STD, pipeline_from_preset

Pixels = npt.NDArray[np.uint8]

CROP_SIDE = 224
RESIZED_SIDE = 256
RISING_SHARE = 0.2  # of the training, with the learning rate going up


@dataclass(frozen=True)
class Recipe:
    """Everything the training depends on; recorded as it is."""

    seed: int = 20
    train_per_class: int = 448
    score_per_class: int = 48
    stages: tuple[tuple[int, int], ...] = ((128, 9), (160, 7), (224, 6))  # (input side, epochs)
    batch_size: int = 64
    peak_learning_rate: float = 4e-3
    weight_decay: float = 0.02
    label_smoothing: float = 0.05
    noise_sigma: float = 0.06  # largest standard deviation of the noise added in training, on [0, 1]


class Block(nn.Module):
    """Convolutions with batch norm, a ReLU after each, and the input added before the last ReLU."""

    def __init__(self, *convolutions: nn.Conv2d, residual: bool) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(convolutions)
        self.norms = nn.ModuleList(nn.BatchNorm2d(conv.out_channels) for conv in convolutions)
        self.residual = residual

    def forward(self, features: Tensor) -> Tensor:
        kept = features
        last = len(self.convolutions) - 1
        for index, (conv, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            features = norm(conv(features))
            if index == last and self.residual:
                features = features + kept
            features = functional.relu(features)
        return features

    def fold(self) -> None:
        """Replace every convolution and its batch norm by one convolution (evaluation mode only)."""
        for index, (conv, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            folded = fuse_conv_bn_eval(cast(nn.Conv2d, conv), cast(nn.BatchNorm2d, norm))
            self.convolutions[index] = folded
            self.norms[index] = nn.Identity()


def conv(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


def plain(inputs: int, outputs: int, *, stride: int) -> Block:
    return Block(conv(inputs, outputs, stride=stride), residual=False)


def residual(channels: int) -> Block:
    return Block(conv(channels, channels), conv(channels, channels), residual=True)


def separable(inputs: int, outputs: int, *, stride: int) -> Block:
    """Depthwise then pointwise; residual where the shape does not change."""
    depthwise = conv(inputs, inputs, stride=stride, groups=inputs)
    pointwise = conv(inputs, outputs, kernel=1)
    return Block(depthwise, pointwise, residual=stride == 1 and inputs == outputs)


class ShapesNet(nn.Module):
    """float32 [pictures, 3, 224, 224], normalised, to float32 logits [pictures, 16]."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            plain(3, 16, stride=2),
            separable(16, 32, stride=2),
            plain(32, 48, stride=2),
            separable(48, 48, stride=1),
            plain(48, 64, stride=2),
            residual(64),
            separable(64, 128, stride=2),
            separable(128, 128, stride=1),
            separable(128, 128, stride=1),
        )
        self.head = nn.Linear(128, len(CLASSES))

    def forward(self, pictures: Tensor) -> Tensor:
        pooled = functional.adaptive_avg_pool2d(self.blocks(pictures), 1).flatten(1)
        return cast(Tensor, self.head(pooled))

    def fold(self) -> None:
        for block in self.blocks:
            cast(Block, block).fold()


def multiply_accumulates(network: ShapesNet) -> int:
    """Of one picture: each weight of a convolution works once per output position."""
    counts = [network.head.weight.numel()]

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        counts.append(cast(nn.Conv2d, module).weight.numel() * output[0, 0].numel())

    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    hooks = [module.register_forward_hook(count) for module in convolutions]
    with torch.no_grad():
        network(torch.zeros(1, 3, CROP_SIDE, CROP_SIDE))
    for hook in hooks:
        hook.remove()
    return sum(counts)


def _photograph(job: tuple[int, int, int, str]) -> Pixels:
    """A numbered picture through JPEG, shorter side resized, central square: uint8 [256, 256, 3]."""
    class_index, number, seed, split = job
    cv2.setNumThreads(1)
    stream = io.BytesIO()
    drawn = Image.fromarray(draw_numbered(class_index, number, seed=seed, split=split))
    drawn.save(stream, "JPEG", quality=JPEG_QUALITY, subsampling="4:2:0")
    picture = Image.open(stream).convert("RGB")
    scale = RESIZED_SIDE / min(picture.size)
    width, height = (round(side * scale) for side in picture.size)
    left, top = (width - RESIZED_SIDE) // 2, (height - RESIZED_SIDE) // 2
    resized = picture.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized.crop((left, top, left + RESIZED_SIDE, top + RESIZED_SIDE)))


def photographs(split: str, *, per_class: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pictures uint8 [pictures, 3, 256, 256] and their class indices int64 [pictures]."""
    jobs = [(index, number, seed, split) for index in range(len(CLASSES)) for number in range(per_class)]
    with multiprocessing.Pool() as pool:
        pictures = np.stack(pool.map(_photograph, jobs, chunksize=16))
    labels = torch.tensor([job[0] for job in jobs])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous(), labels


def normalise(pictures: Tensor) -> Tensor:
    """From [0, 1] to what the network takes; float32 [pictures, 3, height, width]."""
    mean, deviation = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    return (pictures - mean[:, None, None]) / deviation[:, None, None]


def augment(pictures: Tensor, side: int, recipe: Recipe) -> Tensor:
    """uint8 pictures to normalised crops [pictures, 3, side, side] of about the scored scale.

    One window serves the whole batch, for speed; flips, transposition, contrast and brightness vary.
    Every class comes mirrored and at any angle, so flips and transposition are always allowed.
    """
    window = int(torch.randint(208, RESIZED_SIDE + 1, ()))
    top, left = torch.randint(0, RESIZED_SIDE - window + 1, (2,)).tolist()
    crops = pictures[:, :, top : top + window, left : left + window].float() / 255.0
    crops = functional.interpolate(crops, size=(side, side), mode="bilinear", align_corners=False)
    parts = list(crops.chunk(4))
    parts = [part.transpose(2, 3) if torch.rand(()) < 0.5 else part for part in parts]
    parts = [part.flip(2) if torch.rand(()) < 0.5 else part for part in parts]
    crops = torch.cat([part.flip(3) if torch.rand(()) < 0.5 else part for part in parts])
    contrast, brightness = torch.empty(2, len(crops), 1, 1, 1).uniform_(-1.0, 1.0)
    crops = (crops - 0.5) * (1.0 + 0.25 * contrast) + (0.5 + 0.12 * brightness)
    if recipe.noise_sigma > 0.0:
        crops += torch.rand(len(crops), 1, 1, 1) * recipe.noise_sigma * torch.randn_like(crops)
    return normalise(crops).contiguous(memory_format=torch.channels_last)


def fit(network: nn.Module, pictures: Tensor, labels: Tensor, recipe: Recipe) -> None:
    """Train with a one-cycle learning rate, on small crops first because they cost less."""
    steps = len(pictures) // recipe.batch_size
    sides = [side for side, epochs in recipe.stages for _ in range(epochs)]
    rate = recipe.peak_learning_rate
    optimiser = torch.optim.AdamW(network.parameters(), rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, rate, total_steps=steps * len(sides), pct_start=RISING_SHARE
    )
    for epoch, side in enumerate(sides):
        total = 0.0
        order = torch.randperm(len(pictures))[: steps * recipe.batch_size]
        for batch in order.view(steps, recipe.batch_size):
            inputs = augment(pictures[batch], side, recipe)
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(inputs)
            loss = functional.cross_entropy(logits.float(), labels[batch], label_smoothing=recipe.label_smoothing)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}/{len(sides)}, side {side}, mean loss {total / steps:.3f}", flush=True)
    network.eval()


def export(network: ShapesNet, path: Path) -> None:
    """Write the network as one ONNX file, batch norm folded, any number of pictures at a time."""
    network.fold()
    torch.onnx.export(
        network,
        (torch.zeros(1, 3, CROP_SIDE, CROP_SIDE),),
        str(path),
        input_names=["input"],
        output_names=["logits"],
        dynamic_axes={"input": {0: "pictures"}, "logits": {0: "pictures"}},
        opset_version=17,
        dynamo=False,
    )


def declare(path: Path) -> None:
    """Write the sidecar: the preprocessing that the network was trained with, and its classes."""
    sidecar_path(path).unlink(missing_ok=True)  # of an earlier network
    artifact = replace(
        artifact_from_onnx(path),
        preprocessing=tuple(pipeline_from_preset("imagenet", size=CROP_SIDE).describe()),
        classes=CLASSES,
        made_by={"tool": "harness/demo/train.py", "torch": torch.__version__},
    )
    write_sidecar(artifact)


def accuracy(path: Path, pictures: Tensor, labels: Tensor) -> float:
    """Top-1 share in [0, 1] of an exported network on the central crops, through ONNX Runtime."""
    runtime = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    start = (RESIZED_SIDE - CROP_SIDE) // 2
    crops = pictures[:, :, start : start + CROP_SIDE, start : start + CROP_SIDE]
    correct = 0
    for first in range(0, len(labels), 64):
        inputs = normalise(crops[first : first + 64].float() / 255.0)
        logits = np.asarray(runtime.run(["logits"], {"input": inputs.numpy()})[0])
        correct += int((logits.argmax(axis=1) == labels[first : first + 64].numpy()).sum())
    return correct / len(labels)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m harness.demo.train", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where the files go")
    parser.add_argument("--threads", type=int, default=2, help="threads PyTorch may use")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    recipe = Recipe()
    started = time.perf_counter()
    pictures, labels = photographs("train", per_class=recipe.train_per_class, seed=recipe.seed)
    drawn = time.perf_counter()
    torch.manual_seed(recipe.seed)
    network = ShapesNet()
    fit(network, pictures, labels, recipe)
    trained = time.perf_counter()
    multiplications = multiply_accumulates(network)
    model = arguments.folder / "shapes.onnx"
    export(network, model)
    declare(model)
    held_out, truth = photographs("score", per_class=recipe.score_per_class, seed=recipe.seed)
    record = {
        "architecture": str(network),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "multiply_accumulates": multiplications,
        "classes": CLASSES,
        "recipe": asdict(recipe),
        "optimiser": "AdamW, bfloat16 activations in training",
        "learning_rate_schedule": f"one cycle, cosine, first {RISING_SHARE:.0%} rising",
        "training_pictures": len(labels),
        "score_pictures": len(truth),
        "score_accuracy": accuracy(model, held_out, truth),
        "seconds_drawing": round(drawn - started, 1),
        "seconds_training": round(trained - drawn, 1),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "opencv": cv2.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
    }
    (arguments.folder / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"accuracy {record['score_accuracy']:.4f} on {len(truth)} pictures, {model.stat().st_size} bytes")


if __name__ == "__main__":
    main()
