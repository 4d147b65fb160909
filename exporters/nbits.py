"""The two ways in which ONNX stores 4-bit weights: MatMulNBits of ONNX Runtime, and DequantizeLinear in blocks."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from exporters.blocks import LEVELS, MIDDLE, Codes, Grid

CONTRIB = "com.microsoft"
BLOCKED_OPSET = 21  # DequantizeLinear in blocks, and INT4
BLOCKED_IR_VERSION = 10


def packed(codes: Codes) -> Codes:
    """Two codes in a byte, the first in the low half; a last odd one is alone. uint8 [..., n] to [..., (n + 1) // 2].

    >>> packed(np.array([1, 2, 15], np.uint8)).tolist()
    [33, 15]
    """
    if codes.shape[-1] % 2:
        codes = np.concatenate([codes, np.zeros_like(codes[..., :1])], axis=-1)
    return np.asarray(codes[..., 0::2] | (codes[..., 1::2] << 4), np.uint8)


def unpacked(pairs: Codes, count: int) -> Codes:
    """What `packed` undoes: the first ``count`` codes, uint8 [..., count].

    >>> unpacked(np.array([33, 15], np.uint8), 3).tolist()
    [1, 2, 15]
    """
    codes = np.stack([pairs % LEVELS, pairs // LEVELS], axis=-1)
    return np.asarray(codes.reshape(*pairs.shape[:-1], -1)[..., :count], np.uint8)


def matmul_nbits(
    node: onnx.NodeProto, codes: Codes, grid: Grid, depth: int, accuracy_level: int
) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
    """A MatMulNBits of ONNX Runtime in place of a MatMul, and its constants.

    The zero points are left out where all are 8: that is what the kernel takes without them.

    Args:
        node: MatMul of an activation and a weight [depth, columns].
        codes: uint8 [columns, blocks, block].
        grid: the scales and zero points.
        depth: rows of the weight; the codes beyond are filling.
        accuracy_level: 0 for float activations, 4 to let the kernel round them to INT8.
    """
    columns, _, block = codes.shape
    name = node.output[0]
    constants = [
        numpy_helper.from_array(packed(codes), f"{name}_int4"),
        numpy_helper.from_array(grid.scales, f"{name}_scales"),
    ]
    if (grid.zeros != MIDDLE).any():
        constants.append(numpy_helper.from_array(packed(grid.zeros), f"{name}_zeros"))
    attributes = {"K": depth, "N": columns, "bits": 4, "block_size": block, "accuracy_level": accuracy_level}
    made = helper.make_node(
        "MatMulNBits",
        [node.input[0], *(tensor.name for tensor in constants)],
        list(node.output),
        node.name,
        domain=CONTRIB,
        **attributes,
    )
    return made, constants


def blocked_matmul(
    node: onnx.NodeProto, codes: Codes, grid: Grid
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """A DequantizeLinear of INT4 blocks in front of a MatMul, and its constants. For symmetric grids.

    Args:
        node: MatMul of an activation and a weight [depth, columns].
        codes: uint8 [columns, blocks, block] that fill the depth exactly.
        grid: the scales; every zero point is 8.
    """
    columns, count, block = codes.shape
    name = node.output[0]
    # Element type INT4 is signed: two's complement in four bits.
    signed = (codes.reshape(columns, count * block).T - MIDDLE) % LEVELS
    stored = TensorProto(
        name=f"{name}_int4",
        data_type=TensorProto.INT4,
        dims=[count * block, columns],
        raw_data=packed(signed.reshape(-1).astype(np.uint8)).tobytes(),
    )
    scales = numpy_helper.from_array(np.ascontiguousarray(grid.scales.T), f"{name}_scales")
    weight = f"{name}_weight"
    inputs = [stored.name, scales.name]
    dequantise = helper.make_node(
        "DequantizeLinear", inputs, [weight], f"{node.name}_dequantise", axis=0, block_size=block
    )
    product = helper.make_node("MatMul", [node.input[0], weight], list(node.output), node.name)
    return [dequantise, product], [stored, scales]


def set_opset(model: onnx.ModelProto, domain: str, version: int) -> None:
    """Declare one domain's version, whether or not the model imported it before."""
    others = [entry for entry in model.opset_import if entry.domain != domain]
    del model.opset_import[:]
    model.opset_import.extend([*others, helper.make_opsetid(domain, version)])
