"""Drafts: small Q/DQ graphs, written node by node."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Values = npt.NDArray[Any]

CHANNELS = 4
SCALE, ZERO = np.array(0.1, np.float32), np.array(0, np.int8)


class Draft:
    """A graph under construction: [N, 4, 8, 8] in, the last tensor out."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []

    def constant(self, name: str, values: Values) -> str:
        self.tensors.append(numpy_helper.from_array(values, name))
        return name

    def node(self, operator: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def pair(self, source: str, name: str, scale: Values = SCALE, zero: Values | None = ZERO) -> str:
        """QuantizeLinear and DequantizeLinear behind a tensor."""
        inputs = [self.constant(f"{name}_scale", np.asarray(scale))]
        if zero is not None:
            inputs.append(self.constant(f"{name}_zero", np.asarray(zero)))
        axis = {"axis": 0 if source.startswith("weight") else 1} if np.ndim(scale) else {}
        self.node("QuantizeLinear", [source, *inputs], f"{name}_q", **axis)
        return self.node("DequantizeLinear", [f"{name}_q", *inputs], name, **axis)

    def conv(self, source: str, name: str, *, weight: str = "", bias: str = "") -> str:
        """A 1 x 1 convolution; its weight has a scale per channel unless one is given."""
        if not weight:
            values = self.constant(f"weight_{name}", np.ones((CHANNELS, CHANNELS, 1, 1), np.float32))
            weight = self.pair(
                values, f"{name}_weight", np.full(CHANNELS, 0.1, np.float32), np.zeros(CHANNELS, np.int8)
            )
        return self.node("Conv", [source, weight, *([bias] if bias else [])], name)

    def model(self, opset: int = 21) -> onnx.ModelProto:
        shape = ["N", CHANNELS, 8, 8]
        graph = helper.make_graph(
            self.nodes,
            "draft",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(self.nodes[-1].output[0], TensorProto.FLOAT, [*"abcd"])],
            self.tensors,
        )
        imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=imports, ir_version=10)

    def write(self, folder: Path) -> Path:
        """The file, checked by ONNX."""
        path = folder / "draft.onnx"
        model = self.model()
        onnx.checker.check_model(model)
        onnx.save(model, str(path))
        return path
