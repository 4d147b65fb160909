"""What is attacked: an engine as a function of pictures, at whole levels and between them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engines.artifact import Artifact, TensorSpec
from engines.base import EngineOptions
from engines.onnx_file import artifact_from_onnx
from harness.adversarial.models import EngineModel, check_source, steps_in_front
from harness.errors import HarnessError
from harness.prepare import Contender
from harness.preprocess import compile_tree
from harness.recipe import Recipe
from harness.registry import engine_opener, twin_opener
from noise.adversarial import DECISION, SCORES
from noise.base import Pipeline, Step, pipeline_from_json

Make = Callable[[], EngineModel]


@pytest.fixture
def contender(recipe: Recipe) -> Contender:
    return Contender("ort-cpu", "fp32", artifact_from_onnx(Path(recipe.model)), EngineOptions())


def pipeline_of(contender: Contender) -> Pipeline:
    assert contender.artifact.preprocessing is not None
    return pipeline_from_json(contender.artifact.preprocessing)


def of_a_run(contender: Contender, pipeline: Pipeline, levels: np.ndarray) -> np.ndarray:
    """What the steps of a run and a bare engine make of a picture that has the model's size."""
    steps = tuple(step for step in pipeline.steps if step.stage in ("colour", "normalise", "layout"))
    tree = compile_tree([Pipeline(steps)])
    fed = next(tree.walk(levels, "any", 0)).tensor  # type: ignore[arg-type]
    engine = engine_opener(contender.engine)(contender.artifact, contender.options)
    with closing(engine):
        (answer,) = engine.run({contender.artifact.input.name: fed[None]}).values()
    return answer[0]


@pytest.mark.parametrize("swapped", [False, True])
def test_whole_levels_go_through_the_very_steps_of_a_run(contender: Contender, swapped: bool) -> None:
    pipeline = pipeline_of(contender)
    if swapped:
        pipeline = pipeline.with_step(Step("colour", "bgr", {}))
    levels = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    pictures = (levels.transpose(2, 0, 1)[None] / np.float32(255)).astype(np.float32)
    with closing(EngineModel(contender, pipeline, 2)) as model:
        assert np.array_equal(model.logits(pictures)[0], of_a_run(contender, pipeline, levels))


@pytest.mark.parametrize("swapped", [False, True])
def test_a_twin_and_its_engine_are_given_the_same_channels(contender: Contender, swapped: bool) -> None:
    pytest.importorskip("torch", reason="twins need torch")
    declared = pipeline_of(contender)
    pipeline = declared.with_step(Step("colour", "bgr", {})) if swapped else declared
    pictures = np.random.default_rng(3).random((4, 3, 224, 224), np.float32)
    pictures[:, 2] /= 4  # so that red and blue cannot be confused
    twin = twin_opener()("twin", contender.artifact, pipeline, 2).logits(pictures)
    with closing(EngineModel(contender, pipeline, 2)) as model, closing(EngineModel(contender, declared, 2)) as other:
        np.testing.assert_allclose(twin, model.logits(pictures), rtol=1e-3, atol=1e-3)
        assert (np.abs(twin - other.logits(pictures)).max() > 0.1) == swapped


def test_a_twin_says_behind_which_steps_it_is(contender: Contender) -> None:
    pytest.importorskip("torch", reason="twins need torch")
    declared = pipeline_of(contender)
    swapped = declared.with_step(Step("colour", "bgr", {}))
    plain, other = (twin_opener()("twin", contender.artifact, each, 2).describe() for each in (declared, swapped))
    assert other["steps"] == [Step("colour", "bgr", {}).describe(), *plain["steps"]]


def test_between_levels_the_answers_lie_between(contender: Contender) -> None:
    pipeline = pipeline_of(contender)
    levels = np.random.default_rng(1).integers(0, 255, (1, 3, 224, 224)).astype(np.float32)
    at = {share: ((levels + share) / 255).astype(np.float32) for share in (0.0, 0.4, 1.0)}
    with closing(EngineModel(contender, pipeline, 2)) as model:
        low, between, high = (model._inputs(each)[0] for each in at.values())
        np.testing.assert_allclose(between, low + 0.4 * (high - low), atol=2e-6)


def test_whole_levels_and_others_of_one_batch_are_prepared_as_each_would_be_alone(contender: Contender) -> None:
    rng = np.random.default_rng(4)
    pictures = rng.random((3, 3, 224, 224), np.float32)
    pictures[1] = rng.integers(0, 256, (3, 224, 224)) / np.float32(255)
    pipeline = pipeline_of(contender).with_step(Step("colour", "bgr", {}))
    with closing(EngineModel(contender, pipeline, 3)) as model:
        alone = np.concatenate([model._inputs(each[None]) for each in pictures])
        assert np.array_equal(model._inputs(pictures), alone)


def test_pictures_are_asked_a_batch_at_a_time_and_any_number_of_them(contender: Contender) -> None:
    pictures = np.random.default_rng(2).random((5, 3, 224, 224), np.float32)
    with closing(EngineModel(contender, pipeline_of(contender), 2)) as model:
        together = model.logits(pictures)
        alone = np.concatenate([model.logits(each[None]) for each in pictures])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("needs", [SCORES, DECISION])
def test_a_ledger_gives_what_is_needed_and_no_more(contender: Contender, needs: str) -> None:
    with closing(EngineModel(contender, pipeline_of(contender), 2)) as model:
        answers = model.ledger(needs).model(np.zeros((2, 3, 224, 224), np.float32))
        assert answers.shape == ((2, 16) if needs == SCORES else (2,))
        with pytest.raises(HarnessError, match="an engine has no gradients; attack its twin"):
            model.gradients()


def test_a_pipeline_with_noise_or_a_cameras_format_is_refused(contender: Contender) -> None:
    for step in (Step("sensor", "brightness", {}), Step("colour", "nv12", {})):
        with pytest.raises(HarnessError, match=f"{step.row} of this pipeline cannot be moved behind"):
            steps_in_front(pipeline_of(contender).with_step(step))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": TensorSpec("input", "float32", (None, 3, 160, 160))}, r"160 x 160 pixels and knows 16 classes"),
        ({"output": TensorSpec("logits", "float32", (None, 1000))}, r"224 x 224 pixels and knows 1000 classes"),
        ({"classes": tuple("abcdefghijklmnop")}, "list their classes in different orders"),
    ],
)
def test_another_model_is_no_source_where_its_pictures_would_not_fit(
    contender: Contender, change: dict[str, object], message: str
) -> None:
    other: Artifact = replace(contender.artifact, **change)  # type: ignore[arg-type]
    with pytest.raises(HarnessError, match=message):
        check_source(other, contender.artifact)
