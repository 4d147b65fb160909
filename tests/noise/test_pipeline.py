"""Pipelines as data, and the generator of every step on every sample."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noise.base import (
    STAGES,
    Change,
    DoesNotApply,
    NoiseError,
    Pipeline,
    Ratio,
    Step,
    differences,
    pipeline_from_json,
    severities,
    step_from_json,
)
from noise.presets import pipeline_from_preset
from noise.seed import generator

PIPELINE = pipeline_from_preset("imagenet", size=64)
NOISE = Step("sensor", "gaussian_noise", {"sigma": 0.1})

# The first numbers of generator(0, "step", "a.jpg").
PINNED = [4521990100862839259, 7288311523417882268, 3926717576151432823, 1276349781271977916]

# A loaded machine is slow, not wrong; and a test that fails must fail again.
unhurried = settings(deadline=None, derandomize=True)

seeds = st.integers(0, 2**64 - 1)
texts = st.text(max_size=20)


def first_numbers(seed: int, key: str, sample_id: str) -> list[int]:
    return [int(n) for n in generator(seed, key, sample_id).integers(0, 2**63, 4)]


def test_sensor_step_is_added_behind_the_crop() -> None:
    rows = [step.row for step in PIPELINE.with_step(NOISE).steps]
    assert rows == [
        "decode.pillow",
        "resize.pillow",
        "crop.centre",
        "sensor.gaussian_noise",
        "normalise.float32",
        "layout.nchw",
    ]


def test_second_sensor_step_comes_behind_the_first() -> None:
    blur = Step("sensor", "defocus_blur", {"radius": 3, "alias_sigma": 0.1})
    both = PIPELINE.with_step(NOISE).with_step(blur)
    assert [step.name for step in both.steps if step.stage == "sensor"] == ["gaussian_noise", "defocus_blur"]


def test_swap_keeps_the_parameters_that_it_does_not_name() -> None:
    swapped = PIPELINE.with_step(Step("resize", "opencv", {"filter": "area"}))
    assert swapped.steps[1] == Step(
        "resize", "opencv", {"geometry": "shorter_side", "size": 73, "filter": "area", "ready_size": 64}
    )
    assert swapped.steps[0] == PIPELINE.steps[0]
    assert swapped.steps[2:] == PIPELINE.steps[2:]


def test_swap_to_another_step_leaves_behind_what_only_the_old_one_knows() -> None:
    reducing = PIPELINE.with_step(Step("resize", "pillow", {"reducing_gap": 2.0}))
    assert reducing.steps[1].params["filter"] == "bilinear"
    by_opencv = reducing.with_step(Step("resize", "opencv", {"filter": "area"}))
    assert "reducing_gap" not in by_opencv.steps[1].params
    assert by_opencv.steps[1].params["size"] == 73


def test_colour_step_comes_behind_the_decoder_and_before_what_the_artifact_declares() -> None:
    declared = PIPELINE.with_step(Step("colour", "bgr", {}))
    nv12 = Step("colour", "nv12", {"matrix": "bt601"})
    assert [step.row for step in declared.with_step(nv12).steps[:4]] == [
        "decode.pillow",
        "colour.nv12",
        "colour.bgr",
        "resize.pillow",
    ]


def test_change_keeps_the_step_and_resolves_ratios_to_whole_pixels() -> None:
    change = Change("resize", {"size": Ratio("crop", "size", 1 / 0.9), "geometry": "square"})
    assert change.step(PIPELINE) == Step("resize", "pillow", {"size": 71, "geometry": "square"})
    changed = PIPELINE.with_step(change)
    assert changed.steps[1].params == {**PIPELINE.steps[1].params, "size": 71, "geometry": "square"}
    by_opencv = PIPELINE.with_step(Step("resize", "opencv", {"filter": "area"}))
    assert by_opencv.with_step(change).steps[1].row == "resize.opencv"
    assert json.loads(json.dumps(changed.describe())) == changed.describe()


def test_change_of_what_a_pipeline_lacks_does_not_apply() -> None:
    cropped = pipeline_from_preset("imagenet-crop", size=64)
    with pytest.raises(DoesNotApply, match="the noise changes the resize step, but this pipeline has none"):
        cropped.with_step(Change("resize", {"geometry": "square"}))
    with pytest.raises(DoesNotApply, match="the noise depends on the resize step"):
        cropped.with_step(Change("decode", {"draft": Ratio("resize", "size")}, name="pillow"))
    sizeless = Pipeline(tuple(Step("crop", "own", {}) if s.stage == "crop" else s for s in PIPELINE.steps))
    with pytest.raises(DoesNotApply, match=r"depends on 'size', which crop\.own does not name"):
        sizeless.with_step(Change("resize", {"size": Ratio("crop", "size")}))


def test_a_setting_is_nothing_one_difference_or_several_in_order() -> None:
    change = Change("resize", {"geometry": "square"})
    assert differences(None) == ()
    assert differences(NOISE) == (NOISE,)
    assert differences((NOISE, change)) == (NOISE, change)


def test_swap_leaves_the_original_alone() -> None:
    before = json.dumps(PIPELINE.describe())
    PIPELINE.with_step(Step("resize", "opencv", {"filter": "area"}))
    PIPELINE.with_step(NOISE)
    assert json.dumps(PIPELINE.describe()) == before


def test_swap_of_a_missing_stage_is_refused_with_the_steps_that_there_are() -> None:
    cropped = pipeline_from_preset("imagenet-crop", size=64)
    with pytest.raises(NoiseError, match=r"resize\.opencv swaps the resize step.*decode\.pillow -> crop\.centre"):
        cropped.with_step(Step("resize", "opencv", {"filter": "area"}))


def test_steps_out_of_order_are_refused() -> None:
    with pytest.raises(NoiseError, match=r"must follow the stages decode -> colour.*got crop\.centre -> resize\."):
        Pipeline((PIPELINE.steps[2], PIPELINE.steps[1]))


def test_unknown_stage_is_refused_with_the_stages() -> None:
    with pytest.raises(NoiseError, match="one of decode, colour, resize, crop, sensor, normalise, layout; got 'blur'"):
        Step("blur", "disk", {})


def test_stage_that_does_not_exist_is_named_with_those_that_do() -> None:
    with pytest.raises(NoiseError, match=r"must be one of decode, colour, .*; got 'blur'"):
        step_from_json({"stage": "blur", "name": "centre", "params": {}})


@pytest.mark.parametrize(
    "description",
    [
        {},
        {"stage": "crop"},
        {"stage": "crop", "name": "centre"},
        {"stage": "crop", "name": "centre", "params": 5},
        {"stage": "crop", "name": "centre", "params": "size"},
        ["crop", "centre", {}],
        "crop.centre",
        None,
    ],
    ids=str,
)
def test_what_is_no_step_is_refused_with_what_was_got(description: object) -> None:
    with pytest.raises(NoiseError, match="stage, name and params") as caught:
        step_from_json(description)  # type: ignore[arg-type]
    assert json.dumps(description) in str(caught.value)


def test_pipeline_survives_json() -> None:
    read = pipeline_from_json(json.loads(json.dumps(PIPELINE.describe())))
    assert read == PIPELINE
    assert read.key == PIPELINE.key


def test_pipelines_that_differ_have_different_keys() -> None:
    others = [
        PIPELINE.with_step(step) for step in severities("gaussian_noise", {"sigma": 0.1}, {"sigma": 0.2}).values()
    ]
    others += [pipeline_from_preset(name, size=64) for name in ("imagenet", "unit", "imagenet-crop")]
    assert len({each.key for each in others}) == len(others)


def test_key_does_not_depend_on_the_order_of_parameters() -> None:
    one = Step("resize", "pillow", {"size": 8, "filter": "box"})
    other = Step("resize", "pillow", {"filter": "box", "size": 8})
    assert one.key == other.key


def test_every_stage_is_accepted() -> None:
    assert [Step(stage, "x", {}).stage for stage in STAGES] == list(STAGES)


def test_generator_is_the_same_in_every_version() -> None:
    """Stored runs are resumed by later versions: these numbers must never change."""
    assert first_numbers(0, "step", "a.jpg") == PINNED


@unhurried
@given(seeds, texts, texts)
def test_equal_arguments_give_equal_numbers(seed: int, key: str, sample_id: str) -> None:
    assert first_numbers(seed, key, sample_id) == first_numbers(seed, key, sample_id)


@unhurried
@given(seeds, seeds, texts, texts)
def test_other_seed_gives_other_numbers(seed: int, other: int, key: str, sample_id: str) -> None:
    same = first_numbers(seed, key, sample_id) == first_numbers(other, key, sample_id)
    assert same == (seed == other)


@unhurried
@given(seeds, texts, texts, texts, texts)
def test_other_step_or_sample_gives_other_numbers(
    seed: int, key: str, sample_id: str, other_key: str, other_id: str
) -> None:
    same = first_numbers(seed, key, sample_id) == first_numbers(seed, other_key, other_id)
    assert same == ((key, sample_id) == (other_key, other_id))


@unhurried
@given(texts, texts, st.integers(0, 40))
def test_moving_the_border_between_step_and_sample_gives_other_numbers(key: str, sample_id: str, cut: int) -> None:
    joined = key + sample_id
    moved = joined[:cut], joined[cut:]
    same = first_numbers(0, *moved) == first_numbers(0, key, sample_id)
    assert same == (moved == (key, sample_id))


def test_streams_of_neighbouring_samples_are_uncorrelated() -> None:
    streams = np.array([generator(0, "step", f"{index}.jpg").standard_normal(4000) for index in range(8)])
    assert np.abs(np.corrcoef(streams) - np.eye(8)).max() < 5 / np.sqrt(4000)
