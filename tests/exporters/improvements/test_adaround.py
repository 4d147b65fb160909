"""AdaRound: its gradient is that of its loss, its integers are weights rounded up or down, and outputs come nearer."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import pytest

from engines.artifact import Artifact
from exporters.base import ExportError
from exporters.improve import improved_quantised
from exporters.improvements.adaround import (
    AdaRound,
    Problem,
    beta_at,
    first_choice,
    gradient,
    loss,
    problem_of,
    soft,
    solve,
)
from exporters.improvements.base import Material
from exporters.improvements.qdq_layers import QdqGraph
from tests.exporters.improvements.networks import (
    CALIBRATION,
    constants,
    evaluated,
    folded,
    layer_output,
    loaded,
    material,
    mobile,
    one_by_one,
    quantised,
    transformer,
)

LAYERS = ("first", "depthwise", "pointwise", "grouped", "gemm")


def problem(seed: int = 0, groups: int = 2, outputs: int = 3, depth: int = 6) -> Problem:
    """Weights between -7 and 7 steps, and the products of 20 inputs whose means are not 0."""
    draw = np.random.default_rng(seed)
    inputs = draw.normal(0.5, 1, (groups, depth, 20))
    floats = draw.uniform(-7, 7, (groups, outputs, depth))
    floats[0, 0, 0], floats[0, 1, 0], floats[1, 0, 0] = 7.0, -7.0, -7.0000001
    powers = inputs @ inputs.transpose(0, 2, 1)
    powers /= np.trace(powers, axis1=1, axis2=2)[:, None, None] / depth
    return Problem(floats, powers, draw.normal(0, 0.2, floats.shape), limit=7)


@pytest.mark.parametrize("beta", [None, 20.0, 7.5, 2.0])
def test_the_gradient_is_that_of_the_loss(beta: float | None) -> None:
    """By central differences, in float64, where the rectified sigmoid is not cut."""
    task = problem()
    choice = np.random.default_rng(1).uniform(-2, 2, task.floats.shape)
    assert np.all((soft(choice) > 0) & (soft(choice) < 1))
    slope, by = gradient(task, choice, beta), 1e-6
    for place in np.ndindex(choice.shape):
        up, down = choice.copy(), choice.copy()
        up[place] += by
        down[place] -= by
        assert slope[place] == pytest.approx(
            (loss(task, up, beta) - loss(task, down, beta)) / (2 * by), rel=1e-5, abs=1e-6
        )


def test_the_gradient_is_zero_where_the_sigmoid_is_cut() -> None:
    task = problem()
    choice = np.full(task.floats.shape, 8.0)
    assert not gradient(task, choice, 3.0).any()
    assert not gradient(task, -choice, 3.0).any()


def test_the_loss_is_the_squared_error_of_the_output() -> None:
    """Against the sum over inputs that the moments stand for."""
    draw = np.random.default_rng(3)
    exact, given = draw.normal(0.5, 1, (6, 40)), draw.normal(0.5, 1, (6, 40))
    floats = draw.uniform(-7, 7, (2, 6))
    powers = (given @ given.T)[None]
    task = Problem(floats[None], powers, (floats @ exact @ given.T)[None] - floats @ powers, limit=7)

    def error(integers: np.ndarray) -> np.ndarray:
        return ((floats @ exact - integers @ given) ** 2).sum(axis=1)

    near, far = task.nearest()[0], task.nearest()[0] + 1
    assert np.allclose(task.losses(near[None])[0] - task.losses(far[None])[0], error(near) - error(far))


def test_at_first_nothing_is_rounded() -> None:
    task = problem()
    inside = np.abs(task.floats) < 6.9
    assert np.allclose((np.floor(task.floats) + soft(first_choice(task)))[inside], task.floats[inside], atol=1e-5)


def test_beta_falls_behind_a_warm_up() -> None:
    assert beta_at(0.1) is None
    betas = [beta_at(share) for share in (0.2, 0.4, 0.6, 0.8, 1.0)]
    assert betas == sorted(betas, reverse=True)  # type: ignore[type-var]
    assert (betas[0], betas[-1]) == (20.0, 2.0)


def test_solutions_are_nearly_the_best_of_all() -> None:
    """Of all 64 roundings of each output of ten problems, tried one by one."""
    gained, possible = 0.0, 0.0
    for task in map(problem, range(10)):
        found = solve(task, 500)
        low = np.floor(task.floats)
        best = np.full(found.shape[:2], np.inf)
        for ups in itertools.product((0, 1), repeat=6):
            candidate = low + ups
            allowed = (np.abs(candidate) <= task.limit).all(axis=2)
            best = np.minimum(best, np.where(allowed, task.losses(candidate), np.inf))
        near, got = task.losses(task.nearest()), task.losses(found)
        assert np.all(got <= near)
        gained += float((near - got).sum())
        possible += float((near - best).sum())
    assert gained > 0.85 * possible


@pytest.mark.parametrize("seed", range(5))
def test_integers_are_the_weights_rounded_up_or_down(seed: int) -> None:
    task = problem(seed)
    found = solve(task, 200)
    low = np.floor(task.floats)
    assert np.all((found == low) | (found == low + 1))
    assert np.abs(found).max() <= task.limit


def improved(artifact: Artifact, made: Artifact) -> Artifact:
    path = made.path.with_suffix(".rounded.onnx")
    return improved_quantised(made, artifact, {"adaround": AdaRound()}, material(), path)


def reconstruction(artifact: Artifact, model: onnx.ModelProto, name: str, integers: np.ndarray | None) -> float:
    """The mean squared error of one layer's output against the float model's, by ONNX's own evaluator; with other
    integers for that layer, where given."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    if integers is not None:
        layer = next(each for each in QdqGraph(changed.graph).layers() if each.node.name == name)
        QdqGraph(changed.graph).set_integers(layer, integers)
    return float(((layer_output(changed, name) - layer_output(folded(artifact), name)) ** 2).mean())


@pytest.mark.parametrize(("weights", "bits"), [("per-tensor", 8), ("per-channel", 8), ("per-channel", 7)])
@pytest.mark.parametrize("target", ["ort-cpu", "tensorrt"])
def test_every_layer_comes_nearer_than_by_rounding_to_nearest(
    tmp_path: Path, target: str, weights: str, bits: int
) -> None:
    """Each layer behind the layers that were rounded before it, as it is in the file."""
    artifact = mobile(tmp_path)
    made = quantised(artifact, target, weights, bits)
    nearest = {
        each.node.name: QdqGraph(loaded(made).graph).integers(each) for each in QdqGraph(loaded(made).graph).layers()
    }
    file = improved(artifact, made)
    assert file.made_by["improvements"]["adaround"]["changed"] == list(LAYERS)
    for name in LAYERS:
        learned = reconstruction(artifact, loaded(file), name, None)
        assert learned < reconstruction(artifact, loaded(file), name, nearest[name]), name


@pytest.mark.parametrize("target", ["ort-cpu", "tensorrt"])
@pytest.mark.parametrize("weights", ["per-tensor", "per-channel"])
def test_the_file_holds_the_chosen_integers(tmp_path: Path, target: str, weights: str) -> None:
    """What the DequantizeLinear before each layer makes is the scale times the weight rounded up or down, exactly."""
    artifact = mobile(tmp_path)
    model = loaded(improved(artifact, quantised(artifact, target, weights)))
    float_weights = {f"w{index}": constants(folded(artifact))[f"w{index}"] for index in range(1, 6)}
    makers = {name: node for node in model.graph.node for name in node.output}
    values = constants(model)
    moved = 0
    for name, weight in zip(LAYERS, float_weights.values(), strict=True):
        node = next(node for node in model.graph.node if node.name == name)
        dequantise = makers[node.input[1]]
        used = evaluated(model, node.input[1])
        scale = values[dequantise.input[1]].reshape(-1, *[1] * (weight.ndim - 1)).astype(np.float64)
        integers = np.rint(used / scale)
        assert np.abs(integers).max() <= 127
        assert np.abs(integers - weight / scale).max() < 1 + 1e-4
        moved += int((integers != np.rint(weight / scale)).sum())
    assert moved > 20


def test_products_are_rounded_too(tmp_path: Path) -> None:
    artifact = transformer(tmp_path)
    made = quantised(artifact)
    model = loaded(made)
    nearest = {each.node.name: QdqGraph(model.graph).integers(each) for each in QdqGraph(model.graph).layers()}
    done = AdaRound()(model, folded(artifact), material())
    assert done.changed == ("patches", "queries", "keys", "head")
    for name in done.changed:
        worse = reconstruction(artifact, model, name, nearest[name])
        assert reconstruction(artifact, model, name, None) < worse, name


def test_sums_over_pictures_are_those_of_one_batch(tmp_path: Path) -> None:
    artifact = mobile(tmp_path)
    model = loaded(quantised(artifact))
    whole = Material(lambda: [CALIBRATION], lambda what, items: items)
    for layer in QdqGraph(model.graph).layers():
        one = problem_of(layer, model, folded(artifact), material())
        other = problem_of(layer, model, folded(artifact), whole)
        assert np.allclose(one.powers, other.powers, rtol=1e-3, atol=1e-4)
        assert np.allclose(one.pull, other.pull, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("steps", [0, 2.5, -1, float("nan"), float("inf")])
def test_half_a_step_is_refused(steps: float) -> None:
    with pytest.raises(ExportError, match="adaround takes a whole number of steps, at least 1; got"):
        AdaRound(steps)


def test_it_needs_pictures(tmp_path: Path) -> None:
    artifact = mobile(tmp_path)
    with pytest.raises(ExportError, match="adaround looks at calibration pictures; got none"):
        AdaRound()(loaded(quantised(artifact)), folded(artifact), Material(lambda: [], lambda what, items: items))


def test_a_gemm_with_other_factors_is_left(tmp_path: Path) -> None:
    artifact = mobile(tmp_path)
    model = onnx.load(str(artifact.path))
    next(node for node in model.graph.node if node.name == "gemm").attribute.append(
        onnx.helper.make_attribute("alpha", 0.5)
    )
    onnx.save(model, str(artifact.path))
    made = quantised(artifact)
    done = AdaRound(1)(loaded(made), folded(artifact), material())
    assert [(each.layer, each.reason) for each in done.left] == [("gemm", "a Gemm with transA, alpha or beta")]


def test_nothing_that_is_kept_grows_with_the_pictures(tmp_path: Path) -> None:
    artifact = mobile(tmp_path)
    model = loaded(quantised(artifact))
    twice = Material(lambda: [*one_by_one(), *one_by_one()], lambda what, items: items)
    layer = QdqGraph(model.graph).layers()[0]
    one, two = (problem_of(layer, model, folded(artifact), each) for each in (material(), twice))
    assert one.powers.shape == two.powers.shape == (1, 27, 27)
    assert np.allclose(one.powers, two.powers)
