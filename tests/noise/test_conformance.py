"""Every row of `noise.NOISES` and `noise.STEPS` passes every conformance check; a new row is tested by being there."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.errors import HarnessError
from harness.plan import plan
from harness.recipe import Recipe
from harness.registry import NOISE_TABLE, STEP_TABLE, noise_settings, step_function
from noise import NOISES, STEPS
from noise.base import ADDED, STAGES, Change, Pipeline, Step, differences
from noise.presets import pipeline_from_preset, preset_names
from tests.engines.tiny import write_tiny
from tests.noise import conformance

PIPELINE = pipeline_from_preset("imagenet", size=64)
# Corruptions whose distance from this file's scene need not grow; their own tests say what grows instead.
NOT_GROWING = {
    "frost",  # at every severity another part of another photograph
    "glass_blur",  # three rounds over two pixels at severity 3 do more than two rounds over three at 4
    "procedural_frost",  # other crystals at every severity
    "snow",  # the original's flakes at severity 3 are fewer than at 2
    "elastic_transform",  # the original bends whole regions at severities 1 and 2, small ones from 3 on
    "pixelate",  # blocks of 2 and 4 pixels fit into the squares of the scene, blocks between do not
    "spatter",  # water up to severity 3, mud from 4 on: which of them differs more depends on the picture
}
RANDOM = {
    "elastic_transform",
    "fog",
    "frost",
    "gaussian_noise",
    "glass_blur",
    "impulse_noise",
    "motion_blur",
    "procedural_frost",
    "shot_noise",
    "snow",
    "spatter",
    "speckle_noise",
}
SIZES = [(224, 224), (97, 130)]

# Steps that stand in no noise and in no preset, so that nothing else says how they are called.
EXAMPLES: list[Step] = []


def noise_steps() -> list[tuple[str, str, Step]]:
    """(noise, setting, step) of every step that a setting puts into `PIPELINE`."""
    return [
        (noise, setting, each.step(PIPELINE) if isinstance(each, Change) else each)
        for noise in NOISE_TABLE.names()
        for setting, what in noise_settings(noise).items()
        for each in differences(what)
    ]


def all_steps() -> dict[str, Step]:
    """Every distinct step that a preset, a noise or an example contains, with all its parameters, by its key."""
    pipelines = [pipeline_from_preset(name, size=64, layout=order) for name in preset_names() for order in LAYOUTS]
    pipelines += [PIPELINE.with_step(step) for _, _, step in noise_steps()]
    return {step.key: step for step in [*EXAMPLES, *(step for each in pipelines for step in each.steps)]}


def scene(height: int, width: int) -> conformance.Picture:
    """A picture with smooth parts, edges and texture, not too bright and not too dark."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    smooth = np.stack([60 + 60 * x / width, 50 + 70 * y / height, 110 - 50 * x / width], axis=2)
    smooth[(x // 16 + y // 16) % 2 == 0] += 40
    texture = np.random.default_rng(3).normal(0, 12, (height, width, 3))
    return np.clip(smooth + texture, 0, 255).astype(np.uint8)


def encoded(picture: conformance.Picture, mode: str = "RGB") -> bytes:
    stored = io.BytesIO()
    Image.fromarray(picture).convert(mode).save(stored, format="JPEG", quality=90)
    return stored.getvalue()


def values_for(step: Step) -> list[Any]:
    """Values of the kind that reaches this step's stage, of more than one size."""
    pictures = [scene(height, width) for height, width in SIZES]
    if step.stage == "decode":
        return [encoded(picture) for picture in pictures]
    if step.stage == "layout":
        return [picture.astype(np.float32) for picture in pictures]
    return list(pictures)


LAYOUTS = ("nchw", "nhwc")
NV12 = {"matrix": "bt601", "levels": "full", "read_matrix": "bt601", "read_levels": "full"}
STEP_LIST = list(all_steps().values())
CORRUPTIONS = list(dict.fromkeys(noise for noise, _, step in noise_steps() if step.stage == "sensor"))


def usable(value: Any, name: str) -> Any:
    """A parameter of a test, skipped where what it names needs files or packages that are not here.

    Args:
        name: of a noise, or of a row of steps.
    """
    if name in ("frost", "sensor.frost"):
        return pytest.param(value, marks=pytest.mark.needs_overlays)
    if name in STEPS and STEPS[name].extra:
        return pytest.param(value, marks=pytest.mark.needs_row(name))
    return value


def steps_of(*stages: str) -> pytest.MarkDecorator:
    """A test for every step of these stages, or of all."""
    steps = [step for step in STEP_LIST if step.stage in (stages or STAGES)]
    return pytest.mark.parametrize("step", [usable(step, step.row) for step in steps], ids=[each.key for each in steps])


every_step = steps_of()
every_swap = pytest.mark.parametrize(
    "step",
    [usable(step, step.row) for _, _, step in noise_steps() if step.stage not in ADDED],
    ids=[f"{noise}:{setting}" for noise, setting, step in noise_steps() if step.stage not in ADDED],
)
every_corruption = pytest.mark.parametrize("noise", CORRUPTIONS)


@pytest.mark.parametrize("row", STEPS)
def test_every_row_of_steps_is_covered_by_a_preset_a_noise_or_an_example(row: str) -> None:
    assert row in {step.row for step in STEP_LIST}, f"add a step of {row} to EXAMPLES, with its parameters"


@pytest.mark.parametrize("row", [usable(row, row) for row in [*STEPS, *NOISES] if row != "frost"])
def test_every_row_says_what_it_is_and_can_be_imported(row: str) -> None:
    table = STEP_TABLE if row in STEPS else NOISE_TABLE
    assert table.rows[row].about
    assert table.resolve(row) is not None


@pytest.mark.parametrize("size", SIZES, ids=["224x224", "97x130"])
@steps_of("sensor", "colour")
def test_sensor_step_keeps_dtype_and_shape(step: Step, size: tuple[int, int]) -> None:
    conformance.check_keeps_dtype_and_shape(partial(step_function, step), scene(*size))


@every_step
def test_step_leaves_its_input_alone(step: Step) -> None:
    for value in values_for(step):
        conformance.check_leaves_input_alone(partial(step_function, step), value)


@every_step
def test_step_gives_same_bytes_for_same_generator(step: Step) -> None:
    conformance.check_repeats(partial(step_function, step), values_for(step)[1])


@every_step
def test_step_leaves_global_generator_alone(step: Step) -> None:
    conformance.check_leaves_global_generator_alone(partial(step_function, step), values_for(step)[1])


@every_step
def test_step_ignores_earlier_calls(step: Step) -> None:
    conformance.check_ignores_earlier_calls(partial(step_function, step), values_for(step))


@every_step
def test_random_step_differs_between_samples_and_seeds(step: Step) -> None:
    conformance.check_differs_between_samples(partial(step_function, step), values_for(step)[1])


@every_step
def test_step_survives_json(step: Step) -> None:
    conformance.check_survives_json(step, values_for(step)[1])


@pytest.mark.parametrize("noise", [usable(noise, noise) for noise in sorted(RANDOM)])
def test_noises_that_must_be_random_do_draw(noise: str) -> None:
    for step in noise_settings(noise).values():
        assert isinstance(step, Step)
        assert conformance.draws(partial(step_function, step), scene(40, 50))


@every_corruption
def test_corruption_has_five_severities(noise: str) -> None:
    conformance.check_five_severities(noise_settings(noise))


@pytest.mark.parametrize("noise", [noise for noise in CORRUPTIONS if noise not in NOT_GROWING])
def test_corruption_grows_with_severity(noise: str) -> None:
    conformance.check_grows(noise_settings(noise), scene(224, 224))


@every_corruption
def test_corruption_is_inserted_behind_the_crop(noise: str) -> None:
    for step in noise_settings(noise).values():
        if isinstance(step, Step):
            conformance.check_inserts_behind(PIPELINE, step, "crop")


@steps_of("colour")
def test_colour_is_inserted_behind_the_decoder(step: Step) -> None:
    conformance.check_inserts_behind(PIPELINE, step, "decode")
    conformance.check_keeps_shape_of_input(PIPELINE, step, encoded(scene(97, 130)))


@every_swap
def test_swap_keeps_other_steps_and_size(step: Step) -> None:
    conformance.check_swaps_one_step(PIPELINE, step)
    conformance.check_keeps_shape_of_input(PIPELINE, step, encoded(scene(97, 130)))


@steps_of("decode")
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_decoder_makes_rgb_of_every_jpeg(step: Step, mode: str) -> None:
    conformance.check_makes_rgb(partial(step_function, step), encoded(scene(97, 130), mode), (97, 130))


@steps_of("decode")
@pytest.mark.parametrize("data", conformance.NO_PICTURES, ids=list(conformance.NO_PICTURES))
def test_decoder_refuses_what_is_no_picture_with_its_own_words(step: Step, data: str) -> None:
    conformance.check_refuses(partial(step_function, step), conformance.NO_PICTURES[data])


def test_clean_has_one_setting_without_a_step() -> None:
    assert dict(noise_settings("clean")) == {"": None}


@pytest.mark.parametrize("noise", CORRUPTIONS)
@pytest.mark.parametrize("setting", ["0", "6", "-1", "1.0"])
def test_severity_out_of_range_is_refused(noise: str, setting: str, tmp_path: Path) -> None:
    recipe = Recipe(model=str(write_tiny(tmp_path)), data=str(tmp_path), noise=(f"{noise}:{setting}",))
    with pytest.raises(HarnessError, match=f"no setting of '{noise}' '{setting}'.*Known: 1, 2, 3, 4, 5"):
        plan(recipe)


def test_unknown_noise_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(HarnessError, match="did you mean 'gaussian_noise'"):
        noise_settings("gausian_noise")


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Step("sensor", "gaussian_nose", {"sigma": 0.1}), "did you mean 'sensor.gaussian_noise'"),
        (Step("sensor", "gaussian_noise", {"sgima": 0.1}), "unexpected keyword argument 'sgima'"),
        (Step("sensor", "gaussian_noise", {}), "missing 1 required keyword-only argument: 'sigma'"),
        (Step("resize", "opencv", {"geometry": "square", "size": 8, "filter": "lanczos"}), "choose from nearest"),
        (Step("crop", "centre", {"size": 8, "offset": "ceil"}), "one of half_even, half_up, floor; got 'ceil'"),
        (Step("colour", "nv12", {**NV12, "matrix": "bt2020"}), "NV12 comes in bt601, bt709; got 'bt2020'"),
        (Step("colour", "nv12", {**NV12, "read_levels": "video"}), "NV12 comes in full, limited; got 'video'"),
        (Step("normalise", "float32", {"scale": 0.0, "mean": [0, 0, 0], "std": [1, 1, 1]}), "non-zero scale"),
    ],
    ids=["name", "unknown parameter", "missing parameter", "filter", "offset", "matrix", "levels", "scale"],
)
def test_step_that_no_factory_accepts_is_refused(step: Step, message: str) -> None:
    with pytest.raises(HarnessError, match=message):
        step_function(step)


def test_swap_without_a_step_to_swap_is_refused() -> None:
    cropped = Pipeline(tuple(step for step in PIPELINE.steps if step.stage != "resize"))
    with pytest.raises(ValueError, match=r"has none.*leave that noise out"):
        cropped.with_step(Step("resize", "opencv", {"filter": "area"}))
