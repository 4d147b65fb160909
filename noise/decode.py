"""Decode: the bytes of a picture file become uint8 RGB.

JPEG does not say to the bit what its pixels are. The inverse DCT, the up-sampling of colour, the turn that EXIF asks
for and the way to RGB are the decoder's own, and so is what it makes of grey and CMYK: that is the noise. Decoders
that need another package stand in files of their own.
"""

from __future__ import annotations

import io
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from noise.base import Change, NoiseError, Ratio, Step, StepFunction, Unchanged

Picture = npt.NDArray[np.uint8]

# Who turns a picture where nothing is said of it; the decoders of other files never do.
ORIENTATION = Unchanged({"pillow": False, "opencv": True}, otherwise=False)

# A setting without "exif" in its name does with the orientation what the decoder did whose place it takes.
SETTINGS = {
    "pillow": Change("decode", {"exif_orientation": ORIENTATION, "icc": False, "draft": 0}, name="pillow"),
    "pillow-draft": Change(
        "decode", {"exif_orientation": ORIENTATION, "draft": Ratio("resize", "size")}, name="pillow"
    ),
    "pillow-exif": Step("decode", "pillow", {"exif_orientation": True}),
    "pillow-no-exif": Step("decode", "pillow", {"exif_orientation": False}),
    "pillow-icc": Change("decode", {"exif_orientation": ORIENTATION, "icc": True}, name="pillow"),
    "opencv": Change("decode", {"exif_orientation": ORIENTATION}, name="opencv"),
    "opencv-exif": Step("decode", "opencv", {"exif_orientation": True}),
    "opencv-no-exif": Step("decode", "opencv", {"exif_orientation": False}),
    "ffmpeg": Step("decode", "ffmpeg", {}),
    "simplejpeg": Step("decode", "simplejpeg", {"fast_dct": False, "fast_upsampling": False}),
    "simplejpeg-fast-dct": Step("decode", "simplejpeg", {"fast_dct": True, "fast_upsampling": False}),
    "simplejpeg-fast-upsampling": Step("decode", "simplejpeg", {"fast_dct": False, "fast_upsampling": True}),
    "simplejpeg-fast": Step("decode", "simplejpeg", {"fast_dct": True, "fast_upsampling": True}),
    "torchvision": Step("decode", "torchvision", {}),
    "nvjpeg": Step("decode", "nvjpeg", {}),
}


def turns(step: Step) -> bool:
    """Whether a decoder turns a picture as its EXIF entry says."""
    said = step.params.get("exif_orientation", ORIENTATION.unnamed.get(step.name, ORIENTATION.otherwise))
    return bool(said)


def pillow(*, exif_orientation: bool = False, icc: bool = False, draft: int = 0) -> StepFunction:
    """``Image.open(file).convert("RGB")`` of Pillow 10.3 and later; without parameters as torchvision's loader does it.

    Grey, palette, CMYK and transparent pictures become RGB by Pillow's own conversion, which for CMYK is
    ``(255 - C) * (255 - K) / 255`` without a profile. 16-bit grey is scaled to 8 bits first, rounded down; Pillow
    alone would clip it to white. JPEG goes through the libjpeg that Pillow was built with, accurate DCT and fancy
    up-sampling; a run records which.

    Args:
        exif_orientation: turn the picture as its EXIF entry says, by ``ImageOps.exif_transpose``.
        icc: convert from the embedded profile to sRGB, by ``ImageCms.profileToProfile`` with perceptual intent. For
            a profile of RGB, palette and grey pictures become RGB first; one of grey takes 8-bit grey, one of CMYK
            CMYK. A picture without a profile stays as it is, and so does one whose profile describes another colour
            space, such as CMYK with a profile of RGB.
        draft: ``Image.draft("RGB", (draft, draft))`` first: a JPEG is decoded at 1/2, 1/4 or 1/8 of its size in
            the DCT, as long as both sides keep so many pixels; 0 decodes all.

    Raises (when applied):
        NoiseError: the bytes are no picture, a broken one, or one of more than twice Pillow's ``MAX_IMAGE_PIXELS``.
    """

    def apply(data: bytes, rng: np.random.Generator) -> Picture:
        del rng
        try:
            with Image.open(io.BytesIO(data)) as opened:
                if draft:
                    opened.draft("RGB", (draft, draft))
                image = ImageOps.exif_transpose(opened) if exif_orientation else opened
                return _rgb_from_image(_srgb_from_image(image) if icc else image)
        except UnidentifiedImageError as error:
            raise _no_picture(data) from error
        except ImageCms.PyCMSError as error:
            raise NoiseError(f"the embedded ICC profile cannot be used: {error}") from error
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise NoiseError(f"the picture cannot be decoded: {error}") from error

    return apply


def _srgb_from_image(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    except OSError as error:
        raise ImageCms.PyCMSError(str(error)) from error
    described = _in_space(image, source.profile.xcolor_space.strip())
    if described is None:
        return image
    srgb, perceptual = ImageCms.createProfile("sRGB"), ImageCms.Intent.PERCEPTUAL
    return cast(Image.Image, ImageCms.profileToProfile(described, source, srgb, perceptual, outputMode="RGB"))


def _in_space(image: Image.Image, space: str) -> Image.Image | None:
    """The picture in the colour space that a profile describes, or ``None`` where the profile is another picture's."""
    if space == "CMYK" and image.mode == "CMYK":
        return image
    if space == "GRAY" and (image.mode in ("1", "L", "LA") or image.mode.startswith("I")):
        return Image.fromarray(_rgb_from_image(image)[:, :, 0])
    if space == "RGB" and image.mode != "CMYK":
        return Image.fromarray(_rgb_from_image(image))
    return None


def _rgb_from_image(image: Image.Image) -> Picture:
    if image.mode.startswith("I"):
        deep = np.asarray(image).astype(np.int64)
        grey = np.clip(deep // 257, 0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns of the direct way
    return np.array(image.convert("RGB"))


def opencv(*, exif_orientation: bool = True) -> StepFunction:
    """``cv2.imdecode(bytes, IMREAD_COLOR)`` and ``cvtColor(BGR2RGB)`` of OpenCV 4.9 and later.

    OpenCV's wheels carry a libjpeg-turbo of their own: accurate DCT, fancy up-sampling. CMYK becomes RGB by OpenCV's
    own integers, without a profile. 16-bit channels are divided by 256, rounded down. Transparency is dropped.

    Args:
        exif_orientation: turn the picture as its EXIF entry says, which OpenCV does unless it is told
            ``IMREAD_IGNORE_ORIENTATION``.

    Raises (when applied):
        NoiseError: OpenCV makes nothing of the bytes; it does not say why.
    """
    flags = cv2.IMREAD_COLOR if exif_orientation else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION

    def apply(data: bytes, rng: np.random.Generator) -> Picture:
        del rng
        check_pixels(data)
        if not data:
            raise _no_picture(data)
        try:
            decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error as error:
            raise NoiseError(f"OpenCV cannot decode the picture: {error.err}") from error
        if decoded is None:
            raise NoiseError(f"OpenCV cannot decode the picture; its {len(data)} bytes begin with {data[:8]!r}")
        return cast(Picture, cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB))

    return apply


def check_pixels(data: bytes) -> None:
    """Refuse a decompression bomb before a decoder allocates it; Pillow reads no more than the header.

    Raises:
        NoiseError: more than twice Pillow's ``MAX_IMAGE_PIXELS``. What Pillow does not know is left to the decoder.
    """
    try:
        Image.open(io.BytesIO(data)).close()
    except Image.DecompressionBombError as error:
        raise NoiseError(f"the picture cannot be decoded: {error}") from error
    except (OSError, SyntaxError, ValueError):
        pass


def _no_picture(data: bytes) -> NoiseError:
    return NoiseError(f"not a picture: the {len(data)} bytes begin with {data[:8]!r}")


def source_of(data: bytes) -> str:
    """What the file says it is, for the record: "JPEG RGB", "PNG I;16", or "unreadable"."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return f"{image.format} {image.mode}"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return "unreadable"
