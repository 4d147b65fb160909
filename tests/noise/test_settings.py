"""What every setting of the systematic noises stands for, written out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from harness.conditions import Conditions, conditions_from_recipe
from harness.mismatch import systematic_noises
from harness.recipe import Recipe
from harness.registry import noise_settings, spelt_out, step_function
from noise import STEPS
from noise.base import Pipeline, Step, differences
from noise.decode import turns
from noise.imagenet_s import SETTINGS as IMAGENET_S
from noise.presets import pipeline_from_preset
from noise.resize import SETTINGS as RESIZES

DECLARED = pipeline_from_preset("imagenet", size=224)
Params = dict[str, Any]
RNG = np.random.default_rng(0)
PILLOW: Params = {"exif_orientation": False, "icc": False, "draft": 0}
PLACE: Params = {"geometry": "shorter_side", "size": 256, "ready_size": 224}
FORMULA: Params = {"scale": 255.0, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def pillow_resize(filter_name: str, gap: float | None = None) -> tuple[str, Params]:
    return "resize.pillow", {**PLACE, "filter": filter_name, "reducing_gap": gap}


def opencv_resize(filter_name: str) -> tuple[str, Params]:
    return "resize.opencv", {**PLACE, "filter": filter_name}


def torch_resize(filter_name: str, antialias: bool) -> tuple[str, Params]:
    return "resize.torch", {**PLACE, "filter": filter_name, "antialias": antialias}


def declared_resize(**params: Any) -> tuple[str, Params]:
    return "resize.pillow", {**PLACE, "filter": "bilinear", "reducing_gap": None, **params}


def nv12(matrix: str, levels: str, read_matrix: str, read_levels: str) -> tuple[str, Params]:
    params = {"matrix": matrix, "levels": levels, "read_matrix": read_matrix, "read_levels": read_levels}
    return "colour.nv12", params


EXPECTED: dict[str, tuple[str, Params]] = {
    "decode:pillow": ("decode.pillow", PILLOW),
    "decode:pillow-draft": ("decode.pillow", {**PILLOW, "draft": 256}),
    "decode:pillow-exif": ("decode.pillow", {**PILLOW, "exif_orientation": True}),
    "decode:pillow-no-exif": ("decode.pillow", PILLOW),
    "decode:pillow-icc": ("decode.pillow", {**PILLOW, "icc": True}),
    "decode:opencv": ("decode.opencv", {"exif_orientation": False}),
    "decode:opencv-exif": ("decode.opencv", {"exif_orientation": True}),
    "decode:opencv-no-exif": ("decode.opencv", {"exif_orientation": False}),
    "decode:ffmpeg": ("decode.ffmpeg", {}),
    "decode:simplejpeg": ("decode.simplejpeg", {"fast_dct": False, "fast_upsampling": False}),
    "decode:simplejpeg-fast-dct": ("decode.simplejpeg", {"fast_dct": True, "fast_upsampling": False}),
    "decode:simplejpeg-fast-upsampling": ("decode.simplejpeg", {"fast_dct": False, "fast_upsampling": True}),
    "decode:simplejpeg-fast": ("decode.simplejpeg", {"fast_dct": True, "fast_upsampling": True}),
    "decode:torchvision": ("decode.torchvision", {}),
    "decode:nvjpeg": ("decode.nvjpeg", {}),
    "colour:bgr": ("colour.bgr", {}),
    "colour:nv12-bt601-full": nv12("bt601", "full", "bt601", "full"),
    "colour:nv12-bt601-limited": nv12("bt601", "limited", "bt601", "limited"),
    "colour:nv12-bt709-full": nv12("bt709", "full", "bt709", "full"),
    "colour:nv12-bt709-limited": nv12("bt709", "limited", "bt709", "limited"),
    "colour:nv12-bt601-read-as-bt709": nv12("bt601", "limited", "bt709", "limited"),
    "colour:nv12-bt709-read-as-bt601": nv12("bt709", "limited", "bt601", "limited"),
    "colour:nv12-limited-read-as-full": nv12("bt601", "limited", "bt601", "full"),
    "colour:nv12-full-read-as-limited": nv12("bt601", "full", "bt601", "limited"),
    "resize:nearest": opencv_resize("nearest"),
    "resize:bilinear": opencv_resize("bilinear"),
    "resize:bicubic": opencv_resize("bicubic"),
    "resize:area": opencv_resize("area"),
    "resize:nearest-exact": opencv_resize("nearest-exact"),
    "resize:bilinear-exact": opencv_resize("bilinear-exact"),
    "resize:lanczos4": opencv_resize("lanczos4"),
    "resize:pillow-nearest": pillow_resize("nearest"),
    "resize:pillow-box": pillow_resize("box"),
    "resize:pillow-bilinear": pillow_resize("bilinear"),
    "resize:pillow-hamming": pillow_resize("hamming"),
    "resize:pillow-bicubic": pillow_resize("bicubic"),
    "resize:pillow-lanczos": pillow_resize("lanczos"),
    "resize:pillow-box-reducing": pillow_resize("box", 1.0),
    "resize:pillow-bilinear-reducing": pillow_resize("bilinear", 1.0),
    "resize:pillow-hamming-reducing": pillow_resize("hamming", 1.0),
    "resize:pillow-bicubic-reducing": pillow_resize("bicubic", 1.0),
    "resize:pillow-lanczos-reducing": pillow_resize("lanczos", 1.0),
    "resize:torch-nearest": torch_resize("nearest", False),
    "resize:torch-nearest-exact": torch_resize("nearest-exact", False),
    "resize:torch-area": torch_resize("area", False),
    "resize:torch-bilinear": torch_resize("bilinear", False),
    "resize:torch-bilinear-antialias": torch_resize("bilinear", True),
    "resize:torch-bicubic": torch_resize("bicubic", False),
    "resize:torch-bicubic-antialias": torch_resize("bicubic", True),
    "crop:offset-half-even": ("crop.centre", {"size": 224, "offset": "half_even"}),
    "crop:offset-floor": ("crop.centre", {"size": 224, "offset": "floor"}),
    "crop:offset-half-up": ("crop.centre", {"size": 224, "offset": "half_up"}),
    "crop:fraction-0.875": declared_resize(size=256),
    "crop:fraction-0.9": declared_resize(size=249),
    "crop:fraction-1.0": declared_resize(size=224),
    "crop:shorter-side": declared_resize(),
    "crop:square": declared_resize(geometry="square"),
    "crop:letterbox": declared_resize(geometry="letterbox", size=224),
    "normalise:float32": ("normalise.float32", FORMULA),
    "normalise:float16": ("normalise.float16", FORMULA),
    "normalise:integer": ("normalise.integer", FORMULA),
    "normalise:quantised-uint8": ("normalise.quantised", {**FORMULA, "codes": "uint8", "step": 0, "zero": 0}),
    "normalise:quantised-int8": ("normalise.quantised", {**FORMULA, "codes": "int8", "step": 0, "zero": 0}),
    "layout:taken-for-the-other": ("layout.nchw", {"misread": True}),
}
ALL = [f"{noise}:{setting}" for noise in systematic_noises() for setting in noise_settings(noise)]


def changed(name: str, pipeline: Pipeline = DECLARED) -> Pipeline:
    noise, _, setting = name.partition(":")
    for difference in differences(noise_settings(noise)[setting]):
        pipeline = pipeline.with_step(difference)
    return pipeline


def declaring(step: Step) -> Pipeline:
    """The preset with another declared step."""
    return Pipeline(tuple(step if each.stage == step.stage else each for each in DECLARED.steps))


def made(names: list[str], pipeline: Pipeline) -> Conditions:
    return conditions_from_recipe(names, Recipe(model="m", data="d"), pipeline)


def test_every_setting_is_in_the_table() -> None:
    assert sorted(EXPECTED) == sorted(ALL)


@pytest.mark.parametrize("name", ALL)
def test_setting_is_one_step_with_these_parameters_and_no_others(name: str) -> None:
    row, params = EXPECTED[name]
    pipeline = changed(name)
    stage = row.partition(".")[0]
    (step,) = [each for each in pipeline.steps if each.stage == stage]
    assert step.row == row
    defaults = {} if STEPS[row].extra else spelt_out(step).params  # those with an extra name everything
    assert {**defaults, **step.params} == params
    assert [each for each in pipeline.steps if each is not step] == [
        each for each in DECLARED.steps if each.stage != stage
    ]


@pytest.mark.parametrize("name", RESIZES)
def test_every_filter_comes_in_both_geometries_whichever_is_declared(name: str) -> None:
    square = declaring(Step("resize", "pillow", {**PLACE, "filter": "bilinear", "geometry": "square"}))
    expected = changed(f"resize:{name}").step_of("resize", "")
    for pipeline in (DECLARED, square):
        for noise, geometry in (("resize_square", "square"), ("resize_shorter_side", "shorter_side")):
            swapped = changed(f"{noise}:{name}", pipeline)
            assert swapped.step_of("resize", "").row == expected.row
            assert swapped.step_of("resize", "").params == {**expected.params, "geometry": geometry}
            assert swapped.steps[0] == pipeline.steps[0]
            assert swapped.steps[2:] == pipeline.steps[2:]


@pytest.mark.parametrize("decoder", ["pillow", "opencv", "ffmpeg"])
@pytest.mark.parametrize("resize", ["pillow-nearest", "pillow-box", "opencv-nearest", "opencv-lanczos4"])
def test_imagenet_s_resizes_to_a_square_without_shortcuts(decoder: str, resize: str) -> None:
    gap = Step("resize", "pillow", {**PLACE, "filter": "bilinear", "reducing_gap": 3.0})
    pipeline = changed(f"imagenet_s:{decoder}+{resize}", declaring(gap))
    library, _, filter_name = resize.partition("-")
    (step,) = [each for each in pipeline.steps if each.stage == "resize"]
    assert step.name == library
    expected = {"geometry": "square", "size": 256, "filter": filter_name, "ready_size": 224}
    assert step.params == (expected | {"reducing_gap": None} if library == "pillow" else expected)
    assert next(each.name for each in pipeline.steps if each.stage == "decode") == decoder
    assert len(IMAGENET_S) == 33


@pytest.mark.parametrize(
    "declared",
    [
        Step("decode", "pillow", {}),
        Step("decode", "pillow", {"exif_orientation": True}),
        Step("decode", "opencv", {}),
        Step("decode", "opencv", {"exif_orientation": False}),
        Step("decode", "ffmpeg", {}),
    ],
    ids=["pillow", "pillow-exif", "opencv", "opencv-no-exif", "ffmpeg"],
)
@pytest.mark.parametrize("name", ["decode:pillow", "decode:pillow-draft", "decode:pillow-icc", "decode:opencv"])
def test_another_decoder_turns_what_the_declared_one_turned(declared: Step, name: str) -> None:
    (decode,) = [each for each in changed(name, declaring(declared)).steps if each.stage == "decode"]
    assert turns(decode) == turns(declared)


def test_what_is_declared_can_be_taken_away() -> None:
    declared = declaring(Step("decode", "pillow", {"exif_orientation": True, "icc": True}))
    found = made(["decode:pillow", "decode:pillow-exif", "decode:pillow-no-exif", "decode:pillow-icc"], declared)
    decoders = {each.setting: each.pipeline.steps[0].params for each in found.chosen}
    assert decoders["pillow"] == {"exif_orientation": True, "icc": False, "draft": 0}
    assert decoders["pillow-no-exif"] == {"exif_orientation": False, "icc": True, "draft": 0}
    assert decoders["pillow-exif"] == decoders["pillow-icc"] == declared.steps[0].params


@pytest.mark.parametrize(
    "name",
    ["decode:pillow", "decode:pillow-no-exif", "resize:pillow-bilinear", "crop:offset-half-even", "normalise:float32"],
)
def test_setting_that_is_what_is_declared_is_the_declared_pipeline(name: str) -> None:
    (condition,) = made([name], DECLARED).chosen
    assert condition.pipeline == DECLARED


def test_two_settings_that_do_the_same_are_one_pipeline() -> None:
    one, other = made(["decode:opencv", "decode:opencv-no-exif"], DECLARED).chosen
    assert one.pipeline.key == other.pipeline.key != DECLARED.key


@pytest.mark.parametrize("name", [each for each in ALL if each.endswith("-reducing")])
def test_reducing_acts_on_a_picture_of_twice_the_size_and_more(name: str) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (520, 700, 3), dtype=np.uint8)
    plain, reducing = (
        next(step_function(step) for step in changed(each).steps if step.stage == "resize")(picture, RNG)
        for each in (name.removesuffix("-reducing"), name)
    )
    assert reducing.shape == plain.shape == (256, 344, 3)
    assert np.abs(reducing.astype(int) - plain).mean() > 0.1
