"""What MatMulNBits does to its activations, found out by asking it.

A profile says that the kernel was fed float. Whether it then rounds the activations to INT8, as ``accuracy_level`` 4
allows, depends on the processor and on the version, and neither the profile nor the optimised graph shows it. The
answer does: numbers that INT8 cannot hold beside a large one are lost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from engines.base import EngineOptions
from engines.ort import CPU, OrtFailure, session_options

FLOAT, INT8, UNKNOWN = "float", "int8", "unknown"

LARGE, SMALL = 127.0, 0.4  # beside the one, INT8 rounds the other to 0


@dataclass(frozen=True)
class Product:
    """Everything that the choice of a kernel can depend on, but for the values.

    Args:
        rows: of the activation, [rows, depth].
        depth, columns: of the weight.
        block: weights per scale.
        accuracy_level: the node's attribute.
        zeros: whether it has zero points.
    """

    rows: int
    depth: int
    columns: int
    block: int
    accuracy_level: int
    zeros: bool


def product_of(node: onnx.NodeProto, rows: int) -> Product:
    """The product that a MatMulNBits node stands for, with an activation of so many rows."""
    size = {each.name: each.i for each in node.attribute}
    zeros = len(node.input) > 3 and bool(node.input[3])
    return Product(rows, size["K"], size["N"], size["block_size"], size.get("accuracy_level", 0), zeros)


def activation_type(product: Product, options: EngineOptions) -> str:
    """ "float" or "int8", as the kernel computes; "unknown" where its answer is neither's, or there is none.

    All weights are 1 and each block of a row holds one large number among small ones, so a column of the answer is the
    sum of a row, with the small numbers or without.
    """
    row = np.full(product.depth, SMALL, np.float32)
    row[:: product.block] = LARGE
    try:
        session = ort.InferenceSession(_model(product).SerializeToString(), session_options(options), providers=[CPU])
        answer = np.asarray(session.run(None, {"a": np.tile(row, (product.rows, 1))})[0])
    except OrtFailure:
        return UNKNOWN
    sums = {FLOAT: row.sum(), INT8: row[row == LARGE].sum()}
    near = [name for name, value in sums.items() if np.allclose(answer, value, rtol=1e-3)]
    return near[0] if len(near) == 1 else UNKNOWN


def _model(product: Product) -> onnx.ModelProto:
    blocks = -(-product.depth // product.block)
    constants = [
        # Two codes in a byte: 9 stands for 1, because 8 stands for 0.
        numpy_helper.from_array(np.full((product.columns, blocks, product.block // 2), 0x99, np.uint8), "b"),
        numpy_helper.from_array(np.ones((product.columns, blocks), np.float32), "scales"),
    ]
    if product.zeros:
        zeros = np.full((product.columns, (blocks + 1) // 2), 0x88, np.uint8)
        constants.append(numpy_helper.from_array(zeros, "zeros"))
    node = helper.make_node(
        "MatMulNBits",
        ["a", *(each.name for each in constants)],
        ["y"],
        domain="com.microsoft",
        K=product.depth,
        N=product.columns,
        bits=4,
        block_size=product.block,
        accuracy_level=product.accuracy_level,
    )
    inputs = [helper.make_tensor_value_info("a", TensorProto.FLOAT, [product.rows, product.depth])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [product.rows, product.columns])]
    graph = helper.make_graph([node], "probe", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)
