"""Products of matrices, and attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from exporters.twin.convolution import activated
from exporters.twin.node import Node

ATTENTION = {
    "is_causal",
    "kv_num_heads",
    "q_num_heads",
    "qk_matmul_output_mode",
    "scale",
    "softcap",
    "softmax_precision",
}


def matmul(node: Node, left: Tensor, right: Tensor) -> Tensor:
    """The product of matrices, or of stacks of them."""
    return torch.matmul(left, right)


def fused_matmul(node: Node, left: Tensor, right: Tensor) -> Tensor:
    """A product with transposes and a factor, as ONNX Runtime's optimiser writes it."""
    if node.get("transBatchA", 0) or node.get("transBatchB", 0):
        raise node.refusal("transposed stacks")
    first = left.transpose(-1, -2) if node.get("transA", 0) and left.dim() > 1 else left
    second = right.transpose(-1, -2) if node.get("transB", 0) and right.dim() > 1 else right
    return torch.matmul(first, second) * float(node.get("alpha", 1.0))


def gemm(node: Node, left: Tensor, right: Tensor, addend: Tensor | None = None) -> Tensor:
    """``alpha * left @ right + beta * addend``."""
    product = (left.T if node.get("transA", 0) else left) @ (right.T if node.get("transB", 0) else right)
    product = product * node.get("alpha", 1.0) if node.get("alpha", 1.0) != 1 else product
    if addend is None:
        return product
    return product + (addend if node.get("beta", 1.0) == 1 else addend * node.get("beta", 1.0))


def fused_gemm(node: Node, left: Tensor, right: Tensor, addend: Tensor | None = None) -> Tensor:
    """`gemm` with an activation behind it, as ONNX Runtime's optimiser writes it."""
    return activated(node, gemm(node, left, right, addend))


def einsum(node: Node, *values: Tensor) -> Tensor:
    """Einstein's sum."""
    return torch.einsum(node.attributes["equation"], *values)


def attention(
    node: Node, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *past: Tensor | None
) -> Tensor:
    """``softmax(scale * query @ key + mask) @ value``, head by head: Attention of opset 23.

    Args:
        query, key, value: [N, heads, length, depth], or [N, length, heads * depth] with the heads as attributes.
        mask: of booleans, or of numbers that are added.
        past: keys and values of earlier tokens, which a classifier has not; refused.
    """
    unknown = sorted(set(node.attributes) - ATTENTION)
    if unknown or any(each is not None for each in past):
        raise node.refusal(", ".join(unknown) or "keys of earlier tokens")
    flat = query.dim() == 3
    if flat:
        heads = int(node.attributes["kv_num_heads"])
        query = query.unflatten(2, (int(node.attributes["q_num_heads"]), -1)).transpose(1, 2)
        key, value = (each.unflatten(2, (heads, -1)).transpose(1, 2) for each in (key, value))
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(-1, -2) * node.get("scale", 1 / math.sqrt(query.shape[-1]))
    cap = node.get("softcap", 0.0)
    if cap:
        scores = cap * torch.tanh(scores / cap)
    if node.get("is_causal", 0):
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~allowed, -math.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype is torch.bool else scores + mask
    masked = (scores == -math.inf).all(-1, keepdim=True)
    result = torch.softmax(scores.masked_fill(masked, 0), -1).masked_fill(masked, 0) @ value
    return result.transpose(1, 2).flatten(2) if flat else result
