"""Decode: every kind of picture file becomes 8-bit RGB, and a broken one a message."""

from __future__ import annotations

import io
import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from noise.base import NoiseError
from noise.decode import pillow, source_of
from tests.noise.conformance import png_of_size

Picture = npt.NDArray[np.uint8]


def stored(image: Image.Image, kind: str, **options: int | bytes) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decode(data: bytes) -> Picture:
    return np.asarray(pillow()(data, np.random.default_rng(0)))


def colours(height: int = 20, width: int = 30) -> Picture:
    return np.random.default_rng(4).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_rgb_png_keeps_its_pixels() -> None:
    picture = colours()
    assert np.array_equal(decode(stored(Image.fromarray(picture), "PNG")), picture)


def test_jpeg_equals_pillow() -> None:
    data = stored(Image.fromarray(colours()), "JPEG", quality=80)
    assert np.array_equal(decode(data), np.array(Image.open(io.BytesIO(data))))


def test_grey_becomes_three_equal_channels() -> None:
    grey = colours()[..., 0]
    got = decode(stored(Image.fromarray(grey), "PNG"))
    assert got.shape == (*grey.shape, 3)
    assert np.array_equal(got, np.stack([grey] * 3, axis=2))


def test_palette_becomes_its_colours() -> None:
    picture = np.array([[[250, 10, 20], [0, 200, 0]], [[0, 200, 0], [5, 5, 255]]], np.uint8)
    palette = Image.fromarray(picture).quantize(colors=3)
    assert palette.mode == "P"
    assert np.array_equal(decode(stored(palette, "PNG")), np.array(palette.convert("RGB")))


def test_transparent_pixels_keep_their_colour() -> None:
    rgba = np.dstack([colours(), np.full((20, 30), 7, np.uint8)])
    assert np.array_equal(decode(stored(Image.fromarray(rgba), "PNG")), rgba[..., :3])


def test_cmyk_jpeg_becomes_rgb() -> None:
    red = Image.new("RGB", (16, 16), (200, 30, 40)).convert("CMYK")
    data = stored(red, "JPEG", quality=95)
    assert Image.open(io.BytesIO(data)).mode == "CMYK"
    assert np.abs(decode(data).astype(int) - [200, 30, 40]).max() <= 3


def test_sixteen_bit_png_is_scaled_not_clipped() -> None:
    deep = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = [value * 255 // 65535 for value in range(65536)]
    got = decode(stored(Image.fromarray(deep), "PNG"))
    assert got.shape == (256, 256, 3)
    for channel in range(3):
        assert got[..., channel].ravel().tolist() == expected


def test_exif_orientation_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    data = stored(Image.fromarray(colours(20, 30)), "JPEG", exif=exif.tobytes())
    assert decode(data).shape == (20, 30, 3)


def test_truncated_jpeg_is_refused_with_the_reason() -> None:
    data = stored(Image.fromarray(colours(200, 200)), "JPEG")
    with pytest.raises(NoiseError, match=r"cannot be decoded.*truncated"):
        decode(data[: len(data) // 2])


def test_text_file_is_refused_with_its_first_bytes() -> None:
    with pytest.raises(NoiseError, match=r"not a picture: the 12 bytes begin with b'not an i'"):
        decode(b"not an image")


def test_empty_file_is_refused() -> None:
    with pytest.raises(NoiseError, match="not a picture: the 0 bytes"):
        decode(b"")


@pytest.mark.parametrize("size", [(100_000, 100_000), (2**31 - 1, 2**31 - 1), (2 * 89_478_485 + 2, 1)])
def test_decompression_bomb_is_refused_without_allocating(size: tuple[int, int]) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(NoiseError, match="pixels"):
            decode(png_of_size(*size))
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_source_says_format_and_mode_of_the_file() -> None:
    assert source_of(stored(Image.fromarray(colours()), "JPEG")) == "JPEG RGB"
    assert source_of(stored(Image.fromarray(colours()[..., 0]), "PNG")) == "PNG L"
    assert source_of(b"not an image") == "unreadable"
    assert source_of(png_of_size(100_000, 100_000)) == "unreadable"
