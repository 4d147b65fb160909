"""Decode: the bytes of a picture file become uint8 RGB."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from noise.base import NoiseError, StepFunction


def pillow() -> StepFunction:
    """Pillow, as torchvision's loader does it: EXIF orientation ignored, ICC profile ignored.

    Grey, palette, CMYK and transparent pictures become RGB by Pillow's own conversion. 16-bit grey is scaled
    to 8 bits first; Pillow alone would clip it to white.

    Raises (when applied):
        NoiseError: the bytes are no picture, a broken one, or one of more than twice Pillow's ``MAX_IMAGE_PIXELS``.
    """

    def apply(data: bytes, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        del rng
        try:
            with Image.open(io.BytesIO(data)) as image:
                return _rgb_from_image(image)
        except UnidentifiedImageError as error:
            raise NoiseError(f"not a picture: the {len(data)} bytes begin with {data[:8]!r}") from error
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise NoiseError(f"the picture cannot be decoded: {error}") from error

    return apply


def _rgb_from_image(image: Image.Image) -> npt.NDArray[np.uint8]:
    if image.mode.startswith("I"):
        deep = np.asarray(image).astype(np.int64)
        grey = np.clip(deep // 257, 0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns of the direct way
    return np.array(image.convert("RGB"))


def source_of(data: bytes) -> str:
    """What the file says it is, for the record: "JPEG RGB", "PNG I;16", or "unreadable"."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return f"{image.format} {image.mode}"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return "unreadable"
