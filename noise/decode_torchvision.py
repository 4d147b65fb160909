"""torchvision's own decoders: libjpeg-turbo and libpng on the CPU, nvJPEG on a GPU.

They are deprecated since torchvision 0.29 in favour of TorchCodec, and are still what many pipelines run.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torchvision.io import ImageReadMode, decode_image, decode_jpeg

from noise.base import NoiseError, StepFunction, Unavailable
from noise.decode import Picture, check_pixels


def torchvision() -> StepFunction:
    """``torchvision.io.decode_image(bytes, ImageReadMode.RGB)`` of torchvision 0.19 and later.

    JPEG through the libjpeg-turbo in torchvision's wheels, accurate DCT and fancy up-sampling; PNG, GIF and WebP too.
    EXIF orientation and ICC profiles are ignored. CMYK becomes RGB by torchvision's own integers. 16-bit channels
    are divided by 257, rounded down.

    Raises (when applied):
        NoiseError: torchvision makes nothing of the bytes.
    """

    def apply(data: bytes, rng: np.random.Generator) -> Picture:
        del rng
        check_pixels(data)
        try:
            decoded = decode_image(_tensor(data), ImageReadMode.RGB)
        except RuntimeError as error:
            raise NoiseError(f"torchvision cannot decode the picture: {error}") from error
        if decoded.ndim != 3:
            raise NoiseError(f"torchvision made {list(decoded.shape)} of the picture, not one [3, H, W]")
        return _picture(decoded)

    return apply


def nvjpeg() -> StepFunction:
    """``torchvision.io.decode_jpeg(bytes, ImageReadMode.RGB, device="cuda")`` of torchvision 0.19 and later: nvJPEG.

    JPEG only. The inverse DCT and the up-sampling are the GPU's. Not yet run on one, so what it makes of grey, CMYK and
    EXIF orientation is not known here.

    Raises:
        Unavailable: there is no CUDA device.
        NoiseError (when applied): nvJPEG makes nothing of the bytes.
    """
    if not torch.cuda.is_available():
        raise Unavailable("nvJPEG needs an NVIDIA GPU that PyTorch can use; torch.cuda.is_available() says no")

    def apply(data: bytes, rng: np.random.Generator) -> Picture:
        del rng
        check_pixels(data)
        try:
            return _picture(decode_jpeg(_tensor(data), ImageReadMode.RGB, device="cuda").cpu())
        except RuntimeError as error:
            raise NoiseError(f"nvJPEG cannot decode the picture: {error}") from error

    return apply


def _tensor(data: bytes) -> torch.Tensor:
    if not data:
        raise NoiseError("not a picture: the file is empty")
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _picture(decoded: torch.Tensor) -> Picture:
    """uint8 HWC from a decoded CHW."""
    if decoded.dtype == torch.uint16:
        decoded = (decoded.to(torch.int32) // 257).to(torch.uint8)
    return cast(Picture, np.ascontiguousarray(decoded.permute(1, 2, 0).numpy()))
