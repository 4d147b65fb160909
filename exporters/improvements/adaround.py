"""AdaRound: whether a weight is rounded up or down is chosen for the layer's output, not for the weight.

Rounding every weight to the nearest integer minimises each weight's error, but their errors add up in the output, and
how they do depends on the inputs. For each layer a number between 0 and 1 per weight says how far it is rounded up; it
is learned by descent on the squared error of the output, and driven to 0 or 1 meanwhile.

Source: Nagel, Amjad, van Baalen, Louizos and Blankevoort, "Up or Down? Adaptive Rounding for Post-Training
Quantization", 2020, equations 20 to 25, without the activation function inside the loss of equation 25. Then the loss
is a quadratic form, ``|y - W x|^2 = W (x x') W' - 2 W (x y') + |y|^2``, so sums of products stand for all pictures: the
gradient is exact, no step is drawn at random, and memory grows with the square of a layer's depth, not with the number
of pictures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from exporters.base import ExportError
from exporters.improvements.base import Improved, Material
from exporters.improvements.columns import columns_of, obstacle, outputs_of, rows_of, weight_of
from exporters.improvements.qdq_layers import Integers, QdqGraph, QdqLayer, float_nodes
from exporters.products import Constants, Left
from exporters.qdq import shown_name
from exporters.tapped import Tapped

Floats = npt.NDArray[np.floating[Any]]
Sums = npt.NDArray[np.floating[Any]]

# The rectified sigmoid reaches 0 and 1: stretched to [GAMMA, ZETA], then cut.
ZETA, GAMMA = 1.1, -0.1
# The exponent of the regulariser falls from BETA_FIRST to BETA_LAST behind a warm-up without regulariser.
BETA_FIRST, BETA_LAST, WARM_UP = 20.0, 2.0, 0.2
# In units of a squared step times the mean power of an input, so that it means the same for every layer.
REGULARISER = 1.0
# A free number beyond the reach of any gradient.
FIXED = 8.0
# Adam, as its authors publish it. The rate is for `STEPS`; fewer steps go further each.
STEPS, RATE, ADAM_FIRST, ADAM_SECOND, ADAM_EPSILON = 500, 0.05, 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Problem:
    """One layer in units of its integers: find whole ``z`` near ``floats`` with the least error of the output.

    Args:
        floats: float64 [groups, outputs, depth], the float weights divided by their steps.
        powers: float64 [groups, depth, depth], the mean products of inputs ``x x'``, in units of their mean diagonal.
        pull: float64 [groups, outputs, depth], ``(y x') / step - floats @ powers``: what the inputs of the quantised
            network lack, in the same units; 0 where they are those of the float network.
        limit: the largest integer.
    """

    floats: Sums
    powers: Sums
    pull: Sums
    limit: int

    def losses(self, integers: Integers | Sums) -> Sums:
        """The squared error of each output but for what no choice of integers changes, float64 [groups, outputs]."""
        off = integers - self.floats
        return np.asarray(((off @ self.powers - 2 * self.pull) * off).sum(axis=2))

    def in_float32(self) -> Problem:
        """The same in half the memory and time; descent needs no more digits."""
        small = {name: getattr(self, name).astype(np.float32) for name in ("floats", "powers", "pull")}
        return replace(self, **small)

    def nearest(self) -> Integers:
        """Every weight on its own nearest integer."""
        return np.clip(np.rint(self.floats), -self.limit, self.limit).astype(np.int64)


class AdaRound:
    """Of every layer with integer weights, one after the other: each sees what the rounded layers before it do.

    A layer's integers stay as they were where the new ones would be worse. Every integer is the weight rounded up or
    down, never another.

    Args:
        steps: of descent for each layer.
    """

    after = True

    def __init__(self, steps: float = STEPS) -> None:
        if not (steps >= 1 and float(steps).is_integer()):
            raise ExportError(f"adaround takes a whole number of steps, at least 1; got {steps}")
        self.steps = int(steps)

    def __call__(self, model: onnx.ModelProto, original: onnx.ModelProto, material: Material) -> Improved:
        """See `exporters.improvements.base.Improvement`."""
        constants = Constants(original.graph)
        nodes = float_nodes(original)
        graph, changed, left = QdqGraph(model.graph), [], []
        for layer in material.over("choose roundings", graph.layers()):
            node = nodes[shown_name(layer.node.name)]
            reason = obstacle(node, constants)
            if reason is None:
                rows = solve(problem_of(layer, model, original, material), self.steps)
                graph.set_integers(layer, weight_of(node, rows, layer.scales.shape))
                changed.append(layer.node.name)
            else:
                left.append(Left(layer.node.name, layer.node.op_type, reason))
        return Improved(tuple(changed), tuple(left))


def problem_of(layer: QdqLayer, model: onnx.ModelProto, original: onnx.ModelProto, material: Material) -> Problem:
    """The sums over the calibration pictures of one layer's inputs in the Q/DQ file and outputs in the float model.

    Raises:
        ExportError: there is no picture.
    """
    node, constants = float_nodes(original)[shown_name(layer.node.name)], Constants(original.graph)
    weight = rows_of(node, constants.floats(node.input[1]).astype(np.float64))
    steps = rows_of(node, layer.scales.astype(np.float64))
    bias = constants.floats(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1, np.float32)
    quantised = Tapped(model, [layer.node.input[0]], simulated=True)
    exact = Tapped(original, [node.output[0]])
    groups, outputs, depth = weight.shape
    powers, crossed = np.zeros((groups, depth, depth)), np.zeros((groups, outputs, depth))
    count = 0
    for picture in material.pictures():
        columns = columns_of(node, layer.scales.shape, quantised(picture)[layer.node.input[0]])
        powers += columns @ columns.transpose(0, 2, 1)
        crossed += outputs_of(node, groups, exact(picture)[node.output[0]], bias) @ columns.transpose(0, 2, 1)
        count += 1
    if not count:
        raise ExportError("adaround looks at calibration pictures; got none")
    mean = np.trace(powers, axis1=1, axis2=2)[:, None, None] / depth
    mean[mean <= 0] = 1.0  # inputs that are always 0: any rounding will do
    powers /= mean
    floats = weight / steps
    limit = int(np.abs(QdqGraph(model.graph).integers(layer)).max())  # that of the writer: 127, or 64 in 7 bits
    return Problem(floats, powers, crossed / mean / steps - floats @ powers, limit)


def soft(choice: Floats) -> Floats:
    """How far each weight is rounded up, 0 to 1: the rectified sigmoid of a free number."""
    return np.asarray(np.clip((ZETA - GAMMA) * _sigmoid(choice) + GAMMA, 0, 1))


def first_choice(problem: Problem) -> Floats:
    """The free numbers whose `soft` values are the fractions of the weights, so that at first nothing is rounded.

    Where one of the two integers is beyond the limit, the number is out of the reach of any gradient.
    """
    low = np.floor(problem.floats)
    choice = -np.log((ZETA - GAMMA) / (problem.floats - low - GAMMA) - 1)
    choice[low + 1 > problem.limit] = -FIXED
    choice[low < -problem.limit] = FIXED
    return np.asarray(choice, np.float32)


def loss(problem: Problem, choice: Floats, beta: float | None) -> float:
    """What `solve` descends on: the error of all outputs, and for ``beta`` the price of weights between integers."""
    up = soft(choice)
    error = float(problem.losses(np.floor(problem.floats) + up).sum())
    return error if beta is None else error + REGULARISER * float((1 - np.abs(2 * up - 1) ** beta).sum())


def gradient(problem: Problem, choice: Floats, beta: float | None) -> Floats:
    """Of `loss`, by each free number."""
    sigmoid = _sigmoid(choice)
    stretched = (ZETA - GAMMA) * sigmoid + GAMMA
    up = np.clip(stretched, 0, 1)
    off = np.floor(problem.floats) + up - problem.floats
    by_up = 2 * (off @ problem.powers - problem.pull)
    if beta is not None:
        centred = 2 * up - 1
        by_up -= REGULARISER * 2 * beta * np.abs(centred) ** (beta - 1) * np.sign(centred)
    inside = (stretched > 0) & (stretched < 1)
    return np.asarray(by_up * inside * (ZETA - GAMMA) * sigmoid * (1 - sigmoid))


def beta_at(share: float) -> float | None:
    """The exponent of the regulariser after a share of the steps, along half a cosine; ``None`` in the warm-up."""
    if share < WARM_UP:
        return None
    done = (share - WARM_UP) / (1 - WARM_UP)
    return BETA_LAST + (BETA_FIRST - BETA_LAST) * (1 + math.cos(math.pi * done)) / 2


def solve(problem: Problem, steps: int) -> Integers:
    """The integers of every weight, [groups, outputs, depth]: the learned ones where an output is nearer with them than
    with the nearest integers, else those."""
    single = problem.in_float32()
    rate = RATE * STEPS / steps if steps < STEPS else RATE
    choice = first_choice(problem)
    first, second = np.zeros_like(choice), np.zeros_like(choice)
    for step in range(steps):
        slope = gradient(single, choice, beta_at(step / steps))
        first += (1 - ADAM_FIRST) * (slope - first)
        second += (1 - ADAM_SECOND) * (slope * slope - second)
        sizes = np.sqrt(second / (1 - ADAM_SECOND ** (step + 1))) + ADAM_EPSILON
        choice -= rate / (1 - ADAM_FIRST ** (step + 1)) * first / sizes
    learned = (np.floor(problem.floats) + (soft(choice) >= 0.5)).astype(np.int64)
    nearest = problem.nearest()
    better = problem.losses(learned) < problem.losses(nearest)
    return np.where(better[..., None], learned, nearest)


def _sigmoid(choice: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-choice)), choice.dtype)
