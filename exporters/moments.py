"""Second moments of what layers are fed: enough to know every output error that a change of their weights makes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx

from exporters.base import ExportError, Picture
from exporters.blocks import Floats, Moments
from exporters.tapped import Tapped


def layer_moments(
    model: onnx.ModelProto, sources: Mapping[str, str], pictures: Iterable[Picture], block: int
) -> tuple[dict[str, Moments], int]:
    """Run pictures through a float model and sum the products of each layer's inputs, block by block of their depth.

    Memory grows with the layers' depth times the block, not with the number of pictures.

    Args:
        model: float, one input.
        sources: layer -> the name of its activation, float32 [..., depth].
        pictures: float32 inputs, one at a time.
        block: numbers per block.

    Returns:
        layer -> float64 [blocks, block, block], and the number of pictures.

    Raises:
        ExportError: there is no picture, or ONNX Runtime refuses the model or a picture.
    """
    activations = Tapped(model, sources.values())
    sums: dict[str, Moments] = {}
    count = 0
    for picture in pictures:
        count += 1
        for name, values in activations(picture).items():
            products = _products(values, block)
            sums[name] = sums[name] + products if name in sums else products
    if not count:
        raise ExportError("expected at least one calibration picture; got none")
    return {layer: sums[name] for layer, name in sources.items()}, count


def _products(values: Floats, block: int) -> Moments:
    """float32 [..., depth] to float64 [blocks, block, block], the depth filled up with zeros."""
    rows = values.reshape(-1, values.shape[-1])
    blocks = -(-rows.shape[1] // block)
    padded = np.zeros((len(rows), blocks * block), np.float32)
    padded[:, : rows.shape[1]] = rows
    columns = padded.reshape(len(rows), blocks, block).transpose(1, 2, 0)
    return np.asarray(columns @ columns.transpose(0, 2, 1), np.float64)
