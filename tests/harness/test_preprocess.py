"""The prefix tree gives what the pipelines give one by one, and does shared work once."""

from __future__ import annotations

import io
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engines.base import EngineUnavailable
from harness.batches import Bundle, Preparer
from harness.conditions import Condition
from harness.errors import HarnessError
from harness.plan import plan
from harness.preprocess import compile_tree
from harness.recipe import Recipe
from harness.registry import noise_settings, step_function
from noise import NOISES
from noise.base import Change, MissingData, Pipeline, Step, Unavailable, differences
from noise.presets import pipeline_from_preset
from noise.seed import generator

BASE = pipeline_from_preset("imagenet", size=32)


def possible(change: Step | Change) -> bool:
    """Whether this machine has what the changed pipeline needs."""
    try:
        compile_tree([BASE.with_step(change)])
    except (EngineUnavailable, Unavailable):
        return False
    except HarnessError as error:
        return not isinstance(error.__cause__, MissingData)
    return True


SETTINGS = [each for noise in NOISES for what in noise_settings(noise).values() for each in differences(what)]
CHANGES = [change for change in SETTINGS if possible(change)]
CORRUPTIONS = [step for step in CHANGES if step.stage == "sensor"]


def picture() -> bytes:
    stored = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stored, format="JPEG")
    return stored.getvalue()


def one_by_one(pipeline: Pipeline, data: bytes, seed: int) -> np.ndarray:
    value: object = data
    for step in pipeline.steps:
        value = step_function(step)(value, generator(seed, step.key, "a"))
    return np.asarray(value)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.sampled_from(CHANGES), max_size=3), min_size=1, max_size=6), st.integers(0, 3))
def test_a_tree_gives_what_its_pipelines_give(changes: list[list[Step | Change]], seed: int) -> None:
    pipelines = []
    for steps in changes:
        pipeline = BASE
        for step in steps:
            pipeline = pipeline.with_step(step)
        pipelines.append(pipeline)
    data = picture()
    walked = {each.condition: each for each in compile_tree(pipelines).walk(data, "a", seed)}
    assert set(walked) == set(range(len(pipelines)))
    for index, pipeline in enumerate(pipelines):
        tensor = walked[index].tensor
        assert tensor is not None
        assert np.array_equal(tensor, one_by_one(pipeline, data, seed))


def test_all_corruptions_share_one_decode_and_one_resize() -> None:
    tree = compile_tree([BASE, *(BASE.with_step(step) for step in CORRUPTIONS)])
    counts = tree.step_counts()
    assert (counts["decode"], counts["resize"], counts["crop"]) == (1, 1, 1)
    assert counts["sensor"] == len(CORRUPTIONS)


def test_the_counted_steps_are_the_steps_that_run() -> None:
    tree = compile_tree([BASE.with_step(step) for step in CHANGES])
    ran: Counter[str] = Counter()
    nodes = list(tree.roots.values())
    while nodes:
        node = nodes.pop()
        nodes.extend(node.children.values())
        original = node.function

        def counted(x: object, rng: np.random.Generator, node: object = node, original: object = original) -> object:
            ran[node.step.stage] += 1  # type: ignore[attr-defined]
            return original(x, rng)  # type: ignore[operator]

        node.function = counted
    list(tree.walk(picture(), "a", 0))
    assert ran == tree.step_counts()


def test_a_step_that_fails_fails_the_conditions_below_it_and_no_others() -> None:
    too_small = Pipeline(tuple(s for s in BASE.steps if s.stage != "resize"))
    huge = too_small.with_step(Step("crop", "centre", {"size": 1000}))
    walked = {each.condition: each for each in compile_tree([huge, BASE]).walk(picture(), "a", 0)}
    assert walked[0].tensor is None
    assert walked[0].error == "crop.centre: NoiseError: a 1000 x 1000 crop does not fit a picture of 48 x 64"
    assert walked[1].error is None


def test_a_failed_decode_fails_every_condition() -> None:
    pipelines = [BASE.with_step(step) for step in CHANGES]
    walked = list(compile_tree(pipelines).walk(b"no picture", "a", 0))
    assert sorted(each.condition for each in walked) == list(range(len(pipelines)))
    assert all(each.error and each.error.startswith("decode.") for each in walked)


def test_stages_are_timed() -> None:
    seconds: dict[str, float] = {}
    list(compile_tree([BASE]).walk(picture(), "a", 0, seconds))
    assert set(seconds) == {"decode", "resize", "crop", "normalise", "layout"}
    assert all(value >= 0 for value in seconds.values())


def test_parameters_that_a_step_does_not_take_are_refused_when_compiling() -> None:
    wrong = BASE.with_step(Step("sensor", "gaussian_noise", {"strength": 3}))
    with pytest.raises(HarnessError, match=r"sensor.gaussian_noise refuses \{'strength': 3\}"):
        compile_tree([wrong])


def test_conditions_are_named_by_noise_and_setting() -> None:
    assert Condition("resize", "area", BASE).name == "resize:area"
    assert Condition("clean", "", BASE).name == "clean"


def test_the_time_of_every_batch_is_told(small: Recipe) -> None:
    made = plan(small)
    preparer = Preparer(made.preparation(1))
    bundle = Bundle(0, made.scored.samples[:2])
    spent = [preparer.spent() for _ in preparer.batches(bundle, made.preparation(1).place)]
    assert len(spent) == 2 * len(made.distinct) + 1
    assert all(each["normalise"] > 0 for each in spent[:-1])
    assert "normalise" not in spent[-1], "the same time was told twice"
