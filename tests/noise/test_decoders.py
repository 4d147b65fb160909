"""What each decoder makes of a file: its own DCT and up-sampling, its own way with EXIF, profiles and odd modes."""

from __future__ import annotations

import io
import struct

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms, features

from harness.registry import step_function
from noise.base import NoiseError, Step
from noise.decode import opencv, pillow
from tests.noise.test_conformance import scene, steps_of

Picture = npt.NDArray[np.uint8]
RNG = np.random.default_rng(0)
SCENE = scene(97, 130)

needs_ffmpeg = pytest.mark.needs_row("decode.ffmpeg")
needs_simplejpeg = pytest.mark.needs_row("decode.simplejpeg")
needs_torchvision = pytest.mark.needs_row("decode.torchvision")


def stored(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decoded(data: bytes, name: str, **params: object) -> Picture:
    return np.asarray(step_function(Step("decode", name, params))(data, RNG))


def turned(data: bytes, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return stored(Image.open(io.BytesIO(data)), exif=exif.tobytes(), quality="keep")


@pytest.mark.parametrize("name", ["opencv", pytest.param("simplejpeg", marks=needs_simplejpeg)])
@pytest.mark.parametrize("subsampling", [0, 1, 2], ids=["4:4:4", "4:2:2", "4:2:0"])
def test_every_accurate_libjpeg_turbo_makes_the_same_pixels(name: str, subsampling: int) -> None:
    if not features.check("libjpeg_turbo"):
        pytest.skip("Pillow stands on another libjpeg here")
    data = stored(Image.fromarray(SCENE), quality=75, subsampling=subsampling)
    assert np.abs(decoded(data, name).astype(int) - decoded(data, "pillow")).mean() < 0.2


@pytest.mark.parametrize(
    ("name", "params", "least", "most"),
    [
        pytest.param("ffmpeg", {}, 0.005, 2.0, marks=needs_ffmpeg),
        pytest.param("simplejpeg", {"fast_dct": True}, 0.05, 2.0, marks=needs_simplejpeg),
        pytest.param("simplejpeg", {"fast_upsampling": True}, 0.05, 3.0, marks=needs_simplejpeg),
        pytest.param("torchvision", {}, 0.0, 0.2, marks=needs_torchvision),
    ],
)
def test_other_decoders_differ_by_little_and_not_by_nothing(
    name: str, params: dict[str, bool], least: float, most: float
) -> None:
    data = stored(Image.fromarray(SCENE), quality=75, subsampling=2)
    levels = np.abs(decoded(data, name, **params).astype(int) - decoded(data, "pillow")).mean()
    assert least <= levels <= most


@needs_simplejpeg
def test_fast_upsampling_repeats_colour_over_two_by_two_pixels() -> None:
    # Luma is flat, so what is left in a block of 2 x 2 is how colour was up-sampled.
    ycc = np.full((64, 64, 3), 128, np.uint8)
    ycc[:, :, 1] = np.linspace(60, 200, 64).astype(np.uint8)
    data = stored(Image.fromarray(ycc, "YCbCr"), quality=100, subsampling=2)

    def spread(picture: Picture) -> int:
        blocks = picture[..., 2].reshape(32, 2, 32, 2).astype(int)
        return int((blocks.max(axis=(1, 3)) - blocks.min(axis=(1, 3))).max())

    assert spread(decoded(data, "simplejpeg", fast_upsampling=True)) <= 1
    assert spread(decoded(data, "simplejpeg")) > 1


@needs_ffmpeg
def test_ffmpeg_interpolates_colour_in_pictures_of_odd_size_alone() -> None:
    def steps_of_colour(size: int) -> list[bool]:
        ycc = np.full((size, size, 3), 128, np.uint8)
        ycc[:, :, 1] = np.linspace(60, 200, size).astype(np.uint8)
        blue = decoded(stored(Image.fromarray(ycc, "YCbCr"), quality=100, subsampling=2), "ffmpeg")[10, 20:32, 2]
        return [bool(step) for step in np.diff(blue.astype(int))]

    assert steps_of_colour(64) == [False, True] * 5 + [False]
    assert steps_of_colour(65) == [True] * 11


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured_where_it_is_asked_for(orientation: int) -> None:
    data = turned(stored(Image.fromarray(SCENE), quality=95), orientation)
    plain = pillow()(data, RNG)
    # What "the 0th row is at the visual ..." of the EXIF standard means for an array.
    upright = {
        1: plain,
        2: plain[:, ::-1],
        3: plain[::-1, ::-1],
        4: plain[::-1],
        5: plain.transpose(1, 0, 2),
        6: np.rot90(plain, -1),
        7: plain[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(plain, 1),
    }[orientation]
    assert np.array_equal(pillow(exif_orientation=True)(data, RNG), upright)
    by_opencv = opencv()(data, RNG)
    assert by_opencv.shape == upright.shape
    assert np.abs(by_opencv.astype(int) - upright).mean() < 1
    assert opencv(exif_orientation=False)(data, RNG).shape == plain.shape


@steps_of("decode")
def test_decoders_that_do_not_say_so_ignore_the_orientation(step: Step) -> None:
    data = turned(stored(Image.fromarray(SCENE)), 6)
    asked = step.params.get("exif_orientation", step.name == "opencv")
    size = (130, 97) if asked else (97, 130)
    assert np.asarray(step_function(step)(data, RNG)).shape == (*size, 3)


def test_draft_decodes_at_the_smallest_scale_that_keeps_the_size() -> None:
    data = stored(Image.fromarray(scene(400, 600)), quality=90)
    assert pillow(draft=100)(data, RNG).shape == (100, 150, 3)
    assert pillow(draft=101)(data, RNG).shape == (200, 300, 3)
    assert pillow(draft=201)(data, RNG).shape == (400, 600, 3)
    png = stored(Image.fromarray(SCENE), "PNG")
    assert np.array_equal(pillow(draft=10)(png, RNG), SCENE), "only a JPEG has a DCT to scale in"


def gamma_profile(gamma: float, space: str = "RGB") -> bytes:
    """A profile (ICC.1:2001-04) under one gamma: a matrix of sRGB's primaries, adapted to D50, or one of grey."""

    def fixed(*numbers: float) -> bytes:
        return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)

    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    text = b"test\0"
    colours = {
        b"rXYZ": b"XYZ " + bytes(4) + fixed(0.4360747, 0.2225045, 0.0139322),
        b"gXYZ": b"XYZ " + bytes(4) + fixed(0.3850649, 0.7168786, 0.0971045),
        b"bXYZ": b"XYZ " + bytes(4) + fixed(0.1430804, 0.0606169, 0.7141733),
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    content = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": b"XYZ " + bytes(4) + fixed(0.9642, 1.0, 0.8249),
        **(colours if space == "RGB" else {b"kTRC": curve}),
    }
    table, body = b"", b""
    start = 128 + 4 + 12 * len(content)
    for tag, value in content.items():
        padded = value + bytes(-len(value) % 4)
        table += tag + struct.pack(">II", start + len(body), len(value))
        body += padded
    header = bytearray(128)
    header[0:4] = struct.pack(">I", start + len(body))
    header[8:12] = b"\x02\x40\x00\x00"
    header[12:24] = f"mntr{space:4}XYZ ".encode()
    header[36:40] = b"acsp"
    header[68:80] = fixed(0.9642, 1.0, 0.8249)
    return bytes(header) + struct.pack(">I", len(content)) + table + body


def test_embedded_profile_is_converted_as_its_formula_says() -> None:
    levels = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    data = stored(Image.fromarray(levels), "PNG", icc_profile=gamma_profile(1.0))
    assert np.abs(pillow(icc=True)(data, RNG) - srgb_from_linear(levels / 255)).max() <= 2
    assert np.array_equal(pillow()(data, RNG), levels)


def srgb_from_linear(linear: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))


@pytest.mark.parametrize("space", ["RGB", "GRAY"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16"])
def test_grey_picture_is_converted_from_a_profile_of_rgb_or_grey(mode: str, space: str) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    image = deep if mode == "I;16" else Image.fromarray(grey).convert(mode)
    data = stored(image, "PNG", icc_profile=gamma_profile(1.8, space))
    plain = pillow()(data, RNG)
    assert len(np.unique(plain)) == (2 if mode == "1" else 256)
    assert np.abs(pillow(icc=True)(data, RNG) - srgb_from_linear((plain / 255) ** 1.8)).max() <= 2


def test_palette_is_converted_from_its_profile_of_rgb() -> None:
    data = stored(Image.fromarray(SCENE).quantize(64), "PNG", icc_profile=gamma_profile(1.0))
    assert Image.open(io.BytesIO(data)).mode == "P"
    as_rgb = stored(Image.fromarray(pillow()(data, RNG)), "PNG", icc_profile=gamma_profile(1.0))
    assert np.array_equal(pillow(icc=True)(data, RNG), pillow(icc=True)(as_rgb, RNG))
    assert np.abs(pillow(icc=True)(data, RNG).astype(int) - pillow()(data, RNG)).mean() > 10


@pytest.mark.parametrize(("mode", "space"), [("CMYK", "RGB"), ("CMYK", "GRAY"), ("RGB", "GRAY")])
def test_profile_of_another_colour_space_is_left_unused(mode: str, space: str) -> None:
    data = stored(Image.fromarray(SCENE).convert(mode), icc_profile=gamma_profile(1.0, space))
    assert np.array_equal(pillow(icc=True)(data, RNG), pillow()(data, RNG))


def test_picture_without_a_profile_stays_as_it_is() -> None:
    data = stored(Image.fromarray(SCENE), "PNG")
    assert np.array_equal(pillow(icc=True)(data, RNG), SCENE)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    tagged = stored(Image.fromarray(SCENE), "PNG", icc_profile=srgb)
    assert np.abs(pillow(icc=True)(tagged, RNG).astype(int) - SCENE).max() <= 1


def test_broken_profile_is_refused_with_the_reason() -> None:
    data = stored(Image.fromarray(SCENE), "PNG", icc_profile=b"no profile")
    with pytest.raises(NoiseError, match="the embedded ICC profile cannot be used"):
        pillow(icc=True)(data, RNG)


def test_opencv_equals_the_direct_call() -> None:
    data = stored(Image.fromarray(SCENE), quality=60)
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.array_equal(opencv()(data, RNG), expected)


@pytest.mark.parametrize("name", ["opencv", pytest.param("torchvision", marks=needs_torchvision)])
def test_sixteen_bit_png_is_scaled_not_clipped(name: str) -> None:
    deep = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    got = decoded(stored(Image.fromarray(deep), "PNG"), name)
    assert got.shape == (256, 256, 3)
    assert np.abs(got[..., 0].astype(int) - deep // 257).max() <= 1


@needs_simplejpeg
def test_a_jpeg_decoder_refuses_a_png_that_others_read() -> None:
    data = stored(Image.fromarray(SCENE), "PNG")
    with pytest.raises(NoiseError, match="libjpeg-turbo cannot decode the picture"):
        decoded(data, "simplejpeg")
    assert np.array_equal(decoded(data, "opencv"), SCENE)


@needs_ffmpeg
def test_ffmpeg_conceals_the_end_of_a_truncated_jpeg_that_others_refuse() -> None:
    whole = stored(Image.fromarray(scene(200, 300)), quality=90)
    cut = whole[: len(whole) // 2]
    got = decoded(cut, "ffmpeg")
    assert got.shape == (200, 300, 3)
    assert np.abs(got[:40].astype(int) - decoded(whole, "ffmpeg")[:40]).max() == 0
    with pytest.raises(NoiseError, match="truncated"):
        decoded(cut, "pillow")
