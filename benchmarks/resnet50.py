"""ResNet-50 with random weights, as ONNX: for speed alone, which does not depend on what weights say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from engines.artifact import Artifact, write_sidecar
from engines.onnx_file import artifact_from_onnx

# channels inside, blocks, stride of the first block of each stage (He et al., 2016, table 1)
STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
EXPANSION = 4
CLASSES = 1000


class _Builder:
    """Nodes and weights of a graph that grows from its input."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, *shape: int) -> str:
        """He initialisation, so that activations keep their size."""
        spread = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.0
        self.weights.append(numpy_helper.from_array(self.rng.normal(0, spread, shape).astype(np.float32), name))
        return name

    def add(
        self, operator: str, inputs: list[str], name: str, attributes: Mapping[str, int | list[int]] | None = None
    ) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [name], name))
        for key, value in (attributes or {}).items():
            self.nodes[-1].attribute.append(helper.make_attribute(key, value))
        return name

    def conv(self, source: str, name: str, channels: tuple[int, int], kernel: int, stride: int) -> str:
        given, made = channels
        inputs = [source, self.weight(f"{name}.w", made, given, kernel, kernel), self.weight(f"{name}.b", made)]
        return self.add("Conv", inputs, name, {"strides": [stride] * 2, "pads": [kernel // 2] * 4})

    def bottleneck(self, source: str, name: str, channels: tuple[int, int], stride: int) -> str:
        """1 x 1, 3 x 3 with the stride (version 1.5), 1 x 1, and the sum with the shortcut."""
        given, inside = channels
        made = EXPANSION * inside
        shortcut = source
        if stride != 1 or given != made:
            shortcut = self.conv(source, f"{name}.shortcut", (given, made), 1, stride)
        x = self.add("Relu", [self.conv(source, f"{name}.conv1", (given, inside), 1, 1)], f"{name}.relu1")
        x = self.add("Relu", [self.conv(x, f"{name}.conv2", (inside, inside), 3, stride)], f"{name}.relu2")
        x = self.conv(x, f"{name}.conv3", (inside, made), 1, 1)
        return self.add("Relu", [self.add("Add", [x, shortcut], f"{name}.add")], f"{name}.relu3")


def write_resnet50(path: Path) -> Artifact:
    """Write the network: float32 [N, 3, 224, 224] in, [N, 1000] out, batch norms folded already."""
    build = _Builder()
    x = build.add("Relu", [build.conv("input", "conv1", (3, 64), 7, 2)], "relu1")
    x = build.add("MaxPool", [x], "pool1", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4})
    given = 64
    for stage, (inside, blocks, stride) in enumerate(STAGES, 1):
        for block in range(blocks):
            x = build.bottleneck(x, f"layer{stage}.{block}", (given, inside), stride if block == 0 else 1)
            given = EXPANSION * inside
    x = build.add("Flatten", [build.add("GlobalAveragePool", [x], "pool2")], "flatten")
    build.add("Gemm", [x, build.weight("fc.w", CLASSES, given), build.weight("fc.b", CLASSES)], "logits", {"transB": 1})
    graph = helper.make_graph(
        build.nodes,
        "resnet50",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 224, 224])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
        build.weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return artifact_from_onnx(path)


def with_classes(artifact: Artifact, pictures: Path) -> Artifact:
    """The network with a sidecar that names its first classes after the folders of pictures."""
    names = sorted(folder.name for folder in pictures.iterdir() if folder.is_dir())
    named = replace(artifact, classes=(*names, *(f"class {number}" for number in range(len(names), CLASSES))))
    write_sidecar(named)
    return named
