"""The conformance checks catch what they are for: each broken step below fails the check that is meant for it."""

from __future__ import annotations

import io
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from noise.base import NoiseError, Pipeline, Step, StepFunction, severities
from noise.presets import pipeline_from_preset
from tests.noise import conformance
from tests.noise.conformance import Picture

PICTURE = np.random.default_rng(1).integers(40, 200, (20, 30, 3), dtype=np.uint8)
OTHER = np.random.default_rng(2).integers(40, 200, (20, 30, 3), dtype=np.uint8)


def sound() -> StepFunction:
    def apply(picture: Picture, rng: np.random.Generator) -> Picture:
        return np.clip(picture + rng.normal(0, 20, picture.shape), 0, 255).astype(np.uint8)

    return apply


def modifies_input() -> StepFunction:
    def apply(picture: Picture, rng: np.random.Generator) -> Picture:
        picture[rng.random(picture.shape) < 0.1] = 0
        return picture

    return apply


def uses_global_generator() -> StepFunction:
    def apply(picture: Picture, rng: np.random.Generator) -> Picture:
        del rng
        noisy = picture + np.random.normal(0, 20, picture.shape)  # noqa: NPY002 - the fault that must be caught
        return np.clip(noisy, 0, 255).astype(np.uint8)

    return apply


def seeds_global_generator() -> StepFunction:
    def apply(picture: Picture, rng: np.random.Generator) -> Picture:
        np.random.seed(0)  # noqa: NPY002 - the fault that must be caught
        return np.asarray(sound()(picture, rng))

    return apply


def uses_a_generator_of_its_own() -> StepFunction:
    def apply(picture: Picture, rng: np.random.Generator) -> Picture:
        del rng
        return np.asarray(sound()(picture, np.random.default_rng(random.getrandbits(64))))

    return apply


def changes_dtype() -> StepFunction:
    def apply(picture: Picture, rng: np.random.Generator) -> Any:
        return sound()(picture, rng).astype(np.float32)

    return apply


def changes_shape() -> StepFunction:
    def apply(picture: Picture, rng: np.random.Generator) -> Picture:
        return np.ascontiguousarray(sound()(picture, rng)[:-1])

    return apply


def remembers_earlier_calls() -> StepFunction:
    last = np.zeros_like(PICTURE)

    def apply(picture: Picture, rng: np.random.Generator) -> Picture:
        nonlocal last
        del rng
        result, last = picture // 2 + last // 2, picture
        return np.asarray(result)

    return apply


def same_noise_for_every_sample() -> StepFunction:
    def apply(picture: Picture, rng: np.random.Generator) -> Picture:
        rng.random()
        return np.asarray(sound()(picture, np.random.default_rng(0)))

    return apply


def keeps_rows_padded() -> StepFunction:
    def apply(data: bytes, rng: np.random.Generator) -> Picture:
        del data, rng
        return np.zeros((20, 32, 3), np.uint8)[:, :30]

    return apply


def gives_grey() -> StepFunction:
    return lambda data, rng: np.zeros((20, 30), np.uint8)


def takes_anything() -> StepFunction:
    return lambda data, rng: PICTURE


def allocates_first() -> StepFunction:
    def apply(data: bytes, rng: np.random.Generator) -> Picture:
        del data, rng
        np.zeros(20_000_000, np.uint8)
        raise NoiseError("not a picture")

    return apply


@pytest.mark.parametrize(
    ("make", "message"),
    [(keeps_rows_padded, "do not follow each other"), (gives_grey, r"expected \(20, 30, 3\), got \(20, 30\)")],
)
def test_decoder_of_another_form_is_caught(make: conformance.Make, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        conformance.check_makes_rgb(make, b"", (20, 30))


def test_decoder_that_takes_anything_or_allocates_before_it_looks_is_caught() -> None:
    with pytest.raises(AssertionError, match="made a picture of it"):
        conformance.check_refuses(takes_anything, b"text")
    with pytest.raises(AssertionError, match="refusing took 20,"):
        conformance.check_refuses(allocates_first, b"text")


def test_sound_step_passes_every_check() -> None:
    conformance.check_keeps_dtype_and_shape(sound, PICTURE)
    conformance.check_leaves_input_alone(sound, PICTURE.copy())
    conformance.check_repeats(sound, PICTURE)
    conformance.check_leaves_global_generator_alone(sound, PICTURE)
    conformance.check_ignores_earlier_calls(sound, [PICTURE, OTHER])
    conformance.check_differs_between_samples(sound, PICTURE)


def test_step_that_modifies_its_input_is_caught() -> None:
    with pytest.raises(AssertionError, match="modified its input"):
        conformance.check_leaves_input_alone(modifies_input, PICTURE.copy())


@pytest.mark.parametrize("make", [uses_global_generator, seeds_global_generator])
def test_step_that_touches_the_global_generator_is_caught(make: conformance.Make) -> None:
    state = np.random.get_state()  # noqa: NPY002 - put back below
    try:
        with pytest.raises(AssertionError, match="global generator"):
            conformance.check_leaves_global_generator_alone(make, PICTURE)
    finally:
        np.random.set_state(state)  # noqa: NPY002


def test_step_with_hidden_randomness_is_caught() -> None:
    with pytest.raises(AssertionError, match="a second call gave another result"):
        conformance.check_repeats(uses_a_generator_of_its_own, PICTURE)


def test_step_that_changes_dtype_is_caught() -> None:
    with pytest.raises(AssertionError, match="expected uint8, got float32"):
        conformance.check_keeps_dtype_and_shape(changes_dtype, PICTURE)


def test_step_that_changes_shape_is_caught() -> None:
    with pytest.raises(AssertionError, match=r"expected \(20, 30, 3\), got \(19, 30, 3\)"):
        conformance.check_keeps_dtype_and_shape(changes_shape, PICTURE)


def test_step_that_remembers_earlier_calls_is_caught() -> None:
    with pytest.raises(AssertionError, match="depends on earlier calls"):
        conformance.check_ignores_earlier_calls(remembers_earlier_calls, [PICTURE, OTHER])


def test_step_that_gives_every_sample_the_same_noise_is_caught() -> None:
    with pytest.raises(AssertionError, match="two samples got the same noise"):
        conformance.check_differs_between_samples(same_noise_for_every_sample, PICTURE)


def test_step_whose_parameters_are_no_json_is_caught() -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        conformance.check_survives_json(Step("crop", "centre", {"size": np.int64(16)}), PICTURE)


def test_missing_and_equal_severities_are_caught() -> None:
    four = severities("gaussian_noise", *({"sigma": level / 10} for level in range(1, 5)))
    with pytest.raises(AssertionError, match="expected the severities"):
        conformance.check_five_severities(four)
    equal = severities("gaussian_noise", *({"sigma": sigma} for sigma in (0.1, 0.2, 0.2, 0.3, 0.4)))
    with pytest.raises(AssertionError, match="the same step"):
        conformance.check_five_severities(equal)


def test_severities_in_the_wrong_order_are_caught() -> None:
    falling = severities("gaussian_noise", *({"sigma": sigma} for sigma in (0.1, 0.3, 0.2, 0.4, 0.5)))
    with pytest.raises(AssertionError, match="do not grow"):
        conformance.check_grows(falling, np.full((32, 32, 3), 100, np.uint8))


class LosesParameters(Pipeline):
    """A pipeline whose swap forgets the size that the artifact declares."""

    def with_step(self, step: Step) -> Pipeline:
        return Pipeline(tuple(step if s.stage == step.stage else s for s in self.steps))


class ReplacesLayout(Pipeline):
    """A pipeline whose swap changes a step that was not asked for."""

    def with_step(self, step: Step) -> Pipeline:
        changed = Pipeline(self.steps).with_step(step).steps
        return Pipeline((*changed[:-1], Step("layout", "nhwc", {})))


def test_swap_that_loses_a_parameter_is_caught() -> None:
    pipeline = LosesParameters(pipeline_from_preset("imagenet", size=64).steps)
    with pytest.raises(AssertionError, match="lost a parameter"):
        conformance.check_swaps_one_step(pipeline, Step("resize", "opencv", {"filter": "area"}))


class KeepsForeignParameters(Pipeline):
    """A pipeline whose swap hands a library's own parameters to another library."""

    def with_step(self, step: Step) -> Pipeline:
        return Pipeline(
            tuple(replace(step, params={**s.params, **step.params}) if s.stage == step.stage else s for s in self.steps)
        )


def test_swap_that_keeps_a_foreign_parameter_is_caught() -> None:
    steps = pipeline_from_preset("imagenet", size=64).with_step(Step("resize", "pillow", {"reducing_gap": 2.0})).steps
    with pytest.raises(AssertionError, match="kept a foreign one"):
        conformance.check_swaps_one_step(KeepsForeignParameters(steps), Step("resize", "opencv", {"filter": "area"}))


def test_swap_that_changes_the_shape_of_the_input_is_caught() -> None:
    stored = io.BytesIO()
    Image.fromarray(PICTURE).save(stored, "PNG")
    pipeline = pipeline_from_preset("imagenet", size=16)
    with pytest.raises(AssertionError, match=r"expected \(3, 16, 16\), got \(16, 16, 3\)"):
        conformance.check_keeps_shape_of_input(pipeline, Step("layout", "nhwc", {}), stored.getvalue())


def test_swap_that_changes_another_step_is_caught() -> None:
    pipeline = ReplacesLayout(pipeline_from_preset("imagenet", size=64).steps)
    with pytest.raises(AssertionError, match=r"the swap changed layout\.nchw too"):
        conformance.check_swaps_one_step(pipeline, Step("resize", "opencv", {"filter": "area"}))
