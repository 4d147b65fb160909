"""Shapes: operators that move values and do no arithmetic with them."""

from __future__ import annotations

import torch
from torch import Tensor

from exporters.twin.node import DTYPES, Node, integers


def shape(node: Node, x: Tensor) -> Tensor:
    """The lengths of the axes, or of some of them."""
    sides = list(x.shape)[node.get("start", 0) : node.get("end", None)]
    return torch.tensor(sides, dtype=torch.int64, device=x.device)


def size(node: Node, x: Tensor) -> Tensor:
    """The number of values."""
    return torch.tensor(x.numel(), dtype=torch.int64, device=x.device)


def reshape(node: Node, x: Tensor, sides: Tensor | None = None) -> Tensor:
    """Other axes for the same values; 0 keeps the length of an axis, -1 is what is left."""
    wanted = integers(node.get("shape", ()) if sides is None else sides)
    if not node.get("allowzero", 0):
        wanted = [x.shape[axis] if side == 0 else side for axis, side in enumerate(wanted)]
    return x.reshape(wanted)


def flatten(node: Node, x: Tensor) -> Tensor:
    """Two axes: those before ``axis``, and the rest."""
    axis = int(node.get("axis", 1))
    axis = axis + x.dim() if axis < 0 else axis
    rows = 1
    for side in x.shape[:axis]:
        rows *= side
    return x.reshape(rows, -1) if x.numel() else x.reshape(rows, 0)


def transpose(node: Node, x: Tensor) -> Tensor:
    """The axes in another order; reversed where none is given."""
    return x.permute(integers(node.get("perm", range(x.dim())[::-1])))


def squeeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Without axes of length one."""
    named = integers(node.get("axes", ()) if axes is None else axes)
    chosen = named or [axis for axis, side in enumerate(x.shape) if side == 1]
    return x.reshape([side for axis, side in enumerate(x.shape) if axis not in {each % x.dim() for each in chosen}])


def unsqueeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """With new axes of length one, at places in the result."""
    named = integers(node.attributes["axes"] if axes is None else axes)
    total = x.dim() + len(named)
    for axis in sorted(each % total for each in named):
        x = x.unsqueeze(axis)
    return x


def concat(node: Node, *values: Tensor) -> Tensor:
    """One behind the other."""
    return torch.cat(values, int(node.get("axis", 1)))


def split(node: Node, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, ...]:
    """Parts of given lengths, or of equal ones, the last of which may be shorter."""
    axis = int(node.get("axis", 0))
    named = integers(node.get("split", ()) if lengths is None else lengths)
    parts: tuple[Tensor, ...] = x.split(named or -(-x.shape[axis] // node.outputs), axis)
    return parts


def slice_(
    node: Node,
    x: Tensor,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    """From start to end by steps, along each of the axes; attributes before opset 10."""
    begins = integers(node.get("starts", ()) if starts is None else starts)
    stops = integers(node.get("ends", ()) if ends is None else ends)
    along = integers(node.get("axes", ()) if axes is None else axes) or list(range(len(begins)))
    by = [1] * len(begins) if steps is None else integers(steps)
    for begin, stop, axis, step in zip(begins, stops, along, by, strict=True):
        places = range(x.shape[axis])[begin:stop:step]
        if step == 1:
            x = x.narrow(axis, places.start, len(places))
        else:
            x = x.index_select(axis, torch.tensor(list(places), dtype=torch.int64, device=x.device))
    return x


def gather(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    """Whole slices, by their places on one axis."""
    axis = int(node.get("axis", 0)) % x.dim()
    places = _places(indices, x.shape[axis]).reshape(-1)
    return x.index_select(axis, places).reshape(x.shape[:axis] + indices.shape + x.shape[axis + 1 :])


def gather_elements(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    """Single values, by their places on one axis."""
    axis = int(node.get("axis", 0))
    return torch.gather(x, axis, _places(indices, x.shape[axis]))


def gather_nd(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    """Slices, by their places on the first axes."""
    if node.get("batch_dims", 0):
        raise node.refusal("batch_dims")
    return x[tuple(indices.unbind(-1))]


def scatter_nd(node: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """Slices put into a copy."""
    if node.get("reduction", "none") != "none":
        raise node.refusal(f"the reduction {node.get('reduction', '')}")
    return x.index_put(tuple(indices.unbind(-1)), updates)


def scatter_elements(node: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """Single values put into a copy."""
    if node.get("reduction", "none") != "none":
        raise node.refusal(f"the reduction {node.get('reduction', '')}")
    axis = int(node.get("axis", 0))
    return x.scatter(axis, _places(indices, x.shape[axis]), updates)


def expand(node: Node, x: Tensor, sides: Tensor) -> Tensor:
    """Repeated along axes of length one, those of both shapes."""
    return x.broadcast_to(torch.broadcast_shapes(x.shape, tuple(integers(sides))))


def tile(node: Node, x: Tensor, repeats: Tensor) -> Tensor:
    """Repeated along each axis."""
    return x.repeat(integers(repeats))


def constant_of_shape(node: Node, sides: Tensor) -> Tensor:
    """One value everywhere, zero where none is given."""
    value = node.get("value", None)
    if value is None:
        return torch.zeros(integers(sides), device=sides.device)
    everywhere: Tensor = value.to(sides.device).reshape(()).expand(integers(sides))
    return everywhere


def range_(node: Node, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """From start up to the limit, by steps."""
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype, device=start.device)


def trilu(node: Node, x: Tensor, diagonal: Tensor | None = None) -> Tensor:
    """The upper or lower triangle, zero elsewhere."""
    offset = 0 if diagonal is None else integers(diagonal)[0]
    return x.triu(offset) if node.get("upper", 1) else x.tril(offset)


def cumulative_sum(node: Node, x: Tensor, axis: Tensor) -> Tensor:
    """Running sums along an axis."""
    along = integers(axis)[0]
    values = x.flip(along) if node.get("reverse", 0) else x
    sums = values.cumsum(along, dtype=x.dtype)
    if node.get("exclusive", 0):
        sums = sums - values
    return sums.flip(along) if node.get("reverse", 0) else sums


def one_hot(node: Node, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    """The second value at the place that an index names, the first elsewhere."""
    count = integers(depth)[0]
    codes = torch.arange(count, device=indices.device)
    named = indices.long().remainder(count)[..., None] == codes
    inside = (indices >= -count) & (indices < count)
    result = torch.where(named & inside[..., None], values[1], values[0])
    return result.movedim(-1, int(node.get("axis", -1)))


def non_zero(node: Node, x: Tensor) -> Tensor:
    """The places of all values but zero, [axes, count]."""
    return x.nonzero().T


def arg_max(node: Node, x: Tensor) -> Tensor:
    """The place of the greatest value along an axis, the first where there are several."""
    if node.get("select_last_index", 0):
        raise node.refusal("select_last_index")
    return x.argmax(int(node.get("axis", 0)), keepdim=bool(node.get("keepdims", 1)))


def depth_to_space(node: Node, x: Tensor) -> Tensor:
    """Channels become pixels."""
    block = int(node.attributes["blocksize"])
    count, channels, height, width = x.shape
    less = channels // block**2
    if node.get("mode", "DCR") == "DCR":
        parts = x.reshape(count, block, block, less, height, width).permute(0, 3, 4, 1, 5, 2)
    else:
        parts = x.reshape(count, less, block, block, height, width).permute(0, 1, 4, 2, 5, 3)
    return parts.reshape(count, less, height * block, width * block)


def space_to_depth(node: Node, x: Tensor) -> Tensor:
    """Pixels become channels."""
    if node.get("mode", "DCR") != "DCR":
        raise node.refusal(f"the mode {node.get('mode', '')}")
    block = int(node.attributes["blocksize"])
    count, channels, height, width = x.shape
    parts = x.reshape(count, channels, height // block, block, width // block, block).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(count, channels * block**2, height // block, width // block)


def eye_like(node: Node, x: Tensor) -> Tensor:
    """Ones on a diagonal."""
    kind = DTYPES[int(node.attributes["dtype"])] if "dtype" in node.attributes else x.dtype
    ones = torch.ones(x.shape, dtype=kind, device=x.device)
    offset = int(node.get("k", 0))
    return ones.triu(offset).tril(offset)


def _places(indices: Tensor, length: int) -> Tensor:
    """Places from the front; ONNX counts negative ones from the back."""
    places = indices.long()
    return torch.where(places < 0, places + length, places)
