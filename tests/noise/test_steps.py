"""Resize, crop, normalise, layout and the presets, against the direct call or the obvious formula."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx.helper import make_model, make_opsetid
from onnx.parser import parse_graph
from onnx.reference import ReferenceEvaluator
from PIL import Image

from harness.errors import HarnessError
from harness.registry import step_function
from noise.base import NoiseError, Step, StepFunction
from noise.crop import centre
from noise.layout import nchw, nhwc
from noise.normalise import float16, float32, integer, quantised
from noise.presets import IMAGENET_MEAN, IMAGENET_STD, NORMALISATIONS, pipeline_from_preset, preset_names
from noise.resize import (
    BORDER,
    MAX_PIXELS,
    OPENCV_FILTERS,
    PILLOW_FILTERS,
    TORCH_FILTERS,
    opencv,
    pillow,
    target_size,
)

RNG = np.random.default_rng(0)
PICTURE = np.random.default_rng(5).integers(0, 256, (75, 100, 3), dtype=np.uint8)
PORTRAIT = np.ascontiguousarray(PICTURE.transpose(1, 0, 2))


def normaliser(name: str) -> StepFunction:
    """The normalise step of a preset."""
    params: Any = NORMALISATIONS[name][1]
    return float32(**params)


# A loaded machine is slow, not wrong; and a test that fails must fail again.
unhurried = settings(deadline=None, derandomize=True)

sides = st.integers(1, 5000)
sizes = st.integers(1, 1000)


@unhurried
@given(sides, sides, sizes)
def test_shorter_side_becomes_the_size_and_the_aspect_ratio_stays_within_a_pixel(
    height: int, width: int, size: int
) -> None:
    assume(size * size * max(height, width) / min(height, width) <= MAX_PIXELS)
    new_height, new_width = target_size(height, width, "shorter_side", size)
    assert min(new_height, new_width) == size
    assert (new_height <= new_width) == (height <= width) or new_height == new_width
    exact = size * max(height, width) / min(height, width)
    assert exact - 1 < max(new_height, new_width) <= exact


@unhurried
@given(sides, sides, sizes)
def test_target_size_is_that_of_torchvision(height: int, width: int, size: int) -> None:
    assume(size * size * max(height, width) / min(height, width) <= MAX_PIXELS)
    # torchvision.transforms.functional._compute_resized_output_size
    short, long = (width, height) if width <= height else (height, width)
    new_short, new_long = size, int(size * long / short)
    expected = (new_long, new_short) if width <= height else (new_short, new_long)
    assert target_size(height, width, "shorter_side", size) == expected


@unhurried
@given(sides, sides, sizes)
def test_square_is_square(height: int, width: int, size: int) -> None:
    assert target_size(height, width, "square", size) == (size, size)


def test_unknown_geometry_is_refused_with_the_choices() -> None:
    with pytest.raises(NoiseError, match="'shorter_side', 'square' or 'letterbox'; got 'longer_side'"):
        pillow(geometry="longer_side", size=2, filter="box")


def test_strip_that_would_become_gigabytes_is_refused() -> None:
    with pytest.raises(NoiseError, match="4 x 6000 would be resized to 256 x 384000 pixels"):
        target_size(4, 6000, "shorter_side", 256)
    assert target_size(4, 1000, "shorter_side", 256) == (256, 64000)


@pytest.mark.parametrize("picture", [PICTURE, PORTRAIT], ids=["landscape", "portrait"])
@pytest.mark.parametrize("name", PILLOW_FILTERS)
def test_pillow_resize_equals_the_direct_call(name: str, picture: npt.NDArray[np.uint8]) -> None:
    height, width = (50, 66) if picture is PICTURE else (66, 50)
    expected = Image.fromarray(picture).resize((width, height), Image.Resampling[name.upper()])
    assert np.array_equal(pillow(geometry="shorter_side", size=50, filter=name)(picture, RNG), np.array(expected))


@pytest.mark.parametrize("picture", [PICTURE, PORTRAIT], ids=["landscape", "portrait"])
@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("nearest", cv2.INTER_NEAREST),
        ("bilinear", cv2.INTER_LINEAR),
        ("bicubic", cv2.INTER_CUBIC),
        ("area", cv2.INTER_AREA),
        ("nearest-exact", cv2.INTER_NEAREST_EXACT),
        ("bilinear-exact", cv2.INTER_LINEAR_EXACT),
        ("lanczos4", cv2.INTER_LANCZOS4),
    ],
)
def test_opencv_resize_equals_the_direct_call(name: str, flag: int, picture: npt.NDArray[np.uint8]) -> None:
    height, width = (50, 66) if picture is PICTURE else (66, 50)
    expected = cv2.resize(picture, (width, height), interpolation=flag)
    assert np.array_equal(opencv(geometry="shorter_side", size=50, filter=name)(picture, RNG), expected)


def test_every_opencv_filter_is_compared() -> None:
    assert len(OPENCV_FILTERS) == 7


LARGE = np.random.default_rng(8).integers(0, 256, (375, 500, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", PILLOW_FILTERS)
@pytest.mark.parametrize("gap", [1.0, 2.0, 3.0])
def test_reducing_gap_is_a_reduction_by_a_whole_factor_and_then_the_filter(name: str, gap: float) -> None:
    got = pillow(geometry="square", size=60, filter=name, reducing_gap=gap)(LARGE, RNG)
    image = Image.fromarray(LARGE)
    expected = image.resize((60, 60), Image.Resampling[name.upper()], reducing_gap=gap)
    assert np.array_equal(got, np.array(expected))
    factors = (int(500 / 60 / gap) or 1, int(375 / 60 / gap) or 1)
    if name in ("nearest", "box", "hamming") or factors == (1, 1):
        return  # nearest is never reduced; the narrow filters see a rest of a pixel at the border
    box = (0, 0, 500 / factors[0], 375 / factors[1])
    by_hand = image.reduce(factors).resize((60, 60), Image.Resampling[name.upper()], box=box)
    assert np.array_equal(got, np.array(by_hand))


def test_reducing_gap_below_one_is_refused() -> None:
    with pytest.raises(NoiseError, match=r"reducing_gap must be at least 1; got 0\.5"):
        pillow(geometry="square", size=8, filter="box", reducing_gap=0.5)


@pytest.mark.needs_row("resize.torch")
@pytest.mark.parametrize(("name", "antialias"), [(n, a) for n, choices in TORCH_FILTERS.items() for a in choices])
def test_pytorch_resizes_as_the_library_with_the_same_kernel(name: str, antialias: bool) -> None:
    params = {"geometry": "square", "size": 120, "filter": name, "antialias": antialias}
    got = np.asarray(step_function(Step("resize", "torch", params))(LARGE, RNG)).astype(int)
    # PyTorch's nearest truncates, as OpenCV's; nearest-exact takes the middle, as Pillow's; its area is a box of whole
    # pixels, which is Pillow's only where the factor is whole.
    if name == "area":
        whole = np.asarray(step_function(Step("resize", "torch", {**params, "size": 125}))(LARGE[:, :375], RNG))
        expected = LARGE[:, :375].reshape(125, 3, 125, 3, 3).mean(axis=(1, 3))
        assert np.abs(whole - expected).max() <= 0.51
        return
    other = pillow if antialias or name == "nearest-exact" else opencv
    filter_name = "nearest" if name == "nearest-exact" else name
    theirs = other(geometry="square", size=120, filter=filter_name)(LARGE, RNG).astype(int)
    if "nearest" in name:
        # PyTorch multiplies in float32: where the product is a whole number it may take the pixel before.
        assert (got != theirs).mean() < 0.1
    else:
        assert np.abs(got - theirs).mean() < 0.6


@pytest.mark.needs_row("resize.torch")
def test_antialiasing_that_pytorch_does_not_have_is_refused() -> None:
    with pytest.raises(HarnessError, match="PyTorch's 'nearest' has no antialiasing"):
        step_function(
            Step("resize", "torch", {"geometry": "square", "size": 8, "filter": "nearest", "antialias": True})
        )


@unhurried
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 64))
def test_letterbox_holds_the_whole_picture_in_its_middle(height: int, width: int, size: int) -> None:
    rows, columns = target_size(height, width, "letterbox", size)
    assert max(rows, columns) == size
    assert abs(rows - size * height / max(height, width)) <= 0.5 or rows == 1
    assert abs(columns - size * width / max(height, width)) <= 0.5 or columns == 1
    white = np.full((height, width, 3), 255, np.uint8)
    got = opencv(geometry="letterbox", size=size, filter="nearest")(white, RNG)
    assert got.shape == (size, size, 3)
    seen = got[..., 0] == 255
    assert seen.sum() == rows * columns
    assert (got[~seen] == BORDER).all()
    above, left = np.argwhere(seen)[0]
    assert (above, left) == ((size - rows) // 2, (size - columns) // 2)


def test_bilinear_of_pillow_and_opencv_differ_when_shrinking() -> None:
    smooth = pillow(geometry="square", size=20, filter="bilinear")(PICTURE, RNG)
    sparse = opencv(geometry="square", size=20, filter="bilinear")(PICTURE, RNG)
    assert np.std(sparse.astype(float)) > 1.5 * np.std(smooth.astype(float))


def test_unknown_filter_is_refused_with_the_choices() -> None:
    with pytest.raises(NoiseError, match="Pillow has no resize filter 'area'; choose from nearest, box"):
        pillow(geometry="square", size=8, filter="area")
    with pytest.raises(NoiseError, match="OpenCV has no resize filter 'lanczos'; choose from nearest, bilinear"):
        opencv(geometry="square", size=8, filter="lanczos")


@unhurried
@given(st.integers(1, 60), st.integers(0, 9), st.integers(0, 9))
def test_crop_has_the_offsets_of_torchvision(size: int, above: int, beside: int) -> None:
    height, width = size + above, size + beside
    numbered = np.arange(height * width * 3).reshape(height, width, 3)
    top, left = round((height - size) / 2.0), round((width - size) / 2.0)  # Python rounds halves to even, as there
    cropped = centre(size=size)(numbered, RNG)
    assert np.array_equal(cropped, numbered[top : top + size, left : left + size])


@pytest.mark.parametrize(
    ("offset", "expected"),
    [("half_even", [58, 60, 60]), ("half_up", [59, 60, 60]), ("floor", [58, 59, 60])],
)
def test_offsets_differ_where_half_a_pixel_is_left(offset: str, expected: list[int]) -> None:
    for width, left in zip((341, 343, 344), expected, strict=True):
        columns = np.broadcast_to(np.arange(width)[None, :, None], (224, width, 3)).astype(np.int32)
        assert centre(size=224, offset=offset)(columns, RNG)[0, 0, 0] == left


def test_crop_larger_than_the_picture_is_refused() -> None:
    with pytest.raises(NoiseError, match="a 76 x 76 crop does not fit a picture of 75 x 100"):
        centre(size=76)(PICTURE, RNG)


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_normalise_has_the_bits_of_the_float32_formula_on_every_level(name: str) -> None:
    params: Any = NORMALISATIONS[name][1]
    picture = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    got = float32(**params)(picture, RNG)
    mean, std = np.array(params["mean"], np.float32), np.array(params["std"], np.float32)
    scale = np.full((1, 1, 1), params["scale"], np.float32)
    expected = (picture.astype(np.float32) / scale - mean) / std
    assert got.dtype == expected.dtype == np.float32
    assert np.array_equal(got.view(np.uint32), expected.view(np.uint32))


LEVELS = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_float16_rounds_every_operation_to_half_precision(name: str) -> None:
    params: Any = NORMALISATIONS[name][1]
    expected = np.empty(LEVELS.shape, np.float32)
    for index, level in np.ndenumerate(LEVELS):
        scaled = np.float16(np.float16(level) / np.float16(params["scale"]))
        centred = np.float16(scaled - np.float16(params["mean"][index[2]]))
        expected[index] = np.float16(centred / np.float16(params["std"][index[2]]))
    got = float16(**params)(LEVELS, RNG)
    assert got.dtype == np.float32
    assert np.array_equal(got, expected)


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_integer_subtracts_a_whole_mean_and_stays_within_a_level_of_float(name: str) -> None:
    params: Any = NORMALISATIONS[name][1]
    got = integer(**params)(LEVELS, RNG)
    level = 1 / (params["scale"] * np.array(params["std"]))
    # Half a level for the mean, and 255 half steps of a float16 for the factor.
    assert (np.abs(got - float32(**params)(LEVELS, RNG)) <= (0.5 + 255 / 2**11) * level).all()
    means = [round(params["scale"] * mean) for mean in params["mean"]]
    for channel, mean in enumerate(means):
        if 0 <= mean <= 255:
            assert got[mean // 16, mean % 16, channel] == 0


@pytest.mark.parametrize("name", NORMALISATIONS)
@pytest.mark.parametrize("codes", ["uint8", "int8"])
def test_quantised_equals_onnx_operators(name: str, codes: str) -> None:
    params: Any = NORMALISATIONS[name][1]
    values = float32(**params)(LEVELS, RNG)
    low, high = min(0, values.min()), max(0, values.max())
    step = np.float32(max(-low, high) / 127 if codes == "int8" else (high - low) / 255)
    zero = np.array(0 if codes == "int8" else round(-low / step), codes)
    graph = parse_graph(
        "g (float[H, W, C] x, float s, " + codes + " z) => (float[H, W, C] y) "
        "{ q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }"
    )
    model = make_model(graph, opset_imports=[make_opsetid("", 19)])
    for scale in (step, np.float32(step / 2)):  # half of it clips, as percentiles and entropy do
        (expected,) = ReferenceEvaluator(model).run(None, {"x": values, "s": scale, "z": zero})
        given = quantised(**params, codes=codes, step=float(scale), zero=int(zero))(LEVELS, RNG)
        assert np.array_equal(given, expected)
        if scale == step:
            assert np.array_equal(quantised(**params, codes=codes)(LEVELS, RNG), expected)


def test_unknown_codes_are_refused_with_the_choices() -> None:
    with pytest.raises(NoiseError, match="codes uint8 or int8; got 'int4'"):
        quantised(scale=1.0, mean=[0, 0, 0], std=[1, 1, 1], codes="int4")


@pytest.mark.parametrize(
    "params",
    [
        {"scale": 0.0, "mean": [0, 0, 0], "std": [1, 1, 1]},
        {"scale": 1.0, "mean": [0, 0], "std": [1, 1, 1]},
        {"scale": 1.0, "mean": [0, 0, 0], "std": [1, 0, 1]},
        {"scale": 1.0, "mean": [0, 0, 0], "std": [1, 1, 1, 1]},
    ],
    ids=["scale 0", "two means", "deviation 0", "four deviations"],
)
def test_normalise_refuses_what_cannot_be_divided(params: dict[str, float | list[float]]) -> None:
    with pytest.raises(NoiseError, match="three means, three non-zero deviations and a non-zero scale"):
        float32(**params)  # type: ignore[arg-type]


def test_layouts_order_the_axes_and_copy_nothing() -> None:
    picture = PICTURE.astype(np.float32)
    planes, rows = nchw()(picture, RNG), nhwc()(picture[:, ::2], RNG)
    assert planes.shape == (3, 75, 100)
    assert np.array_equal(planes[1], picture[..., 1])
    assert np.array_equal(rows, picture[:, ::2])
    assert np.shares_memory(planes, picture)
    assert np.shares_memory(rows, picture)


def test_misread_memory_keeps_its_bytes_and_takes_the_other_shape() -> None:
    picture = np.ascontiguousarray(PICTURE.astype(np.float32))
    as_planes, as_rows = nchw(misread=True)(picture, RNG), nhwc(misread=True)(picture, RNG)
    assert as_planes.shape == (3, 75, 100)
    assert np.array_equal(as_planes.ravel(), picture.ravel())
    assert as_rows.shape == picture.shape
    assert np.array_equal(as_rows.ravel(), np.moveaxis(picture, 2, 0).ravel())


def test_imagenet_preset_is_torchvisions() -> None:
    assert pipeline_from_preset("imagenet", size=224).describe() == [
        {"stage": "decode", "name": "pillow", "params": {}},
        {
            "stage": "resize",
            "name": "pillow",
            "params": {"geometry": "shorter_side", "size": 256, "filter": "bilinear", "ready_size": 224},
        },
        {"stage": "crop", "name": "centre", "params": {"size": 224}},
        {
            "stage": "normalise",
            "name": "float32",
            "params": {"scale": 255.0, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        },
        {"stage": "layout", "name": "nchw", "params": {}},
    ]


@pytest.mark.parametrize("name", preset_names())
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_every_preset_ends_in_the_layout_and_crops_to_the_size(name: str, layout: str) -> None:
    steps = pipeline_from_preset(name, size=96, layout=layout).steps
    assert steps[-1].name == layout
    assert {"size": 96} in [dict(step.params) for step in steps if step.stage == "crop"]
    assert any(step.stage == "resize" for step in steps) != name.endswith("-crop")


@pytest.mark.parametrize(
    ("name", "black", "white"),
    [("tensorflow", -1.0, 1.0), ("unit", 0.0, 1.0), ("levels", 0.0, 255.0)],
)
def test_presets_map_black_and_white_as_they_say(name: str, black: float, white: float) -> None:
    normalise = normaliser(name)
    got = normalise(np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8), RNG)
    assert got.tolist() == [[[black] * 3, [white] * 3]]


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 255))
def test_imagenet_preset_undoes_to_the_level(level: int) -> None:
    got = normaliser("imagenet")(np.full((1, 1, 3), level, np.uint8), RNG)[0, 0]
    assert np.allclose((got * IMAGENET_STD + IMAGENET_MEAN) * 255, level, atol=1e-3)
