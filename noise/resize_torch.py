"""PyTorch's resize: OpenCV's narrow kernels or Pillow's wide ones, by one switch."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch.nn.functional import interpolate

from noise.base import NoiseError, StepFunction
from noise.resize import TORCH_FILTERS, Picture, filter_of, resizing


def pytorch(
    *, geometry: str, size: int, filter: str, antialias: bool = False, ready_size: int | None = None
) -> StepFunction:
    """``torch.nn.functional.interpolate(x, (height, width), mode=...)`` of PyTorch 2.4 and later; uint8 HWC in and out.

    In float32 with ``align_corners=False``, then ``round`` (halves to even) and clamped to 0 and 255: what
    torchvision's ``resize`` does with a uint8 tensor wherever PyTorch has no integer kernel. Where it has one (bilinear
    and bicubic on the CPU), single values differ by a level, up to a fifth of them. "nearest" takes
    ``floor(x * scale)``.

    Args:
        geometry, size, ready_size: see `noise.resize.resizing`.
        filter: a key of `noise.resize.TORCH_FILTERS`, the ``mode``.
        antialias: widen the kernel when shrinking, as Pillow does; bilinear and bicubic only.
    """
    if antialias not in filter_of(filter, TORCH_FILTERS, "PyTorch"):
        raise NoiseError(f"PyTorch's {filter!r} has no antialiasing; only bilinear and bicubic have")
    torch.set_num_threads(1)  # workers are the parallelism, as with OpenCV
    corners = False if filter in ("bilinear", "bicubic") else None

    def scale(picture: Picture, height: int, width: int) -> Picture:
        planes = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].to(torch.float32)
        resized = interpolate(planes, (height, width), mode=filter, align_corners=corners, antialias=antialias)
        levels = resized.round().clamp(0, 255).to(torch.uint8)
        return cast(Picture, np.ascontiguousarray(levels[0].permute(1, 2, 0).numpy()))

    return resizing(scale, geometry, size, ready_size)
