"""Preprocess: one encoded picture becomes the input of every condition, each shared step done once.

Pipelines that begin alike share that beginning: one decode and one resize serve all corruptions of a picture.
This is the one place where a failure of a step becomes part of the result instead of stopping the run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from harness.registry import step_function
from harness.samples import Sample
from noise.base import Pipeline, Step, StepFunction
from noise.seed import generator


@dataclass(frozen=True)
class Prepared:
    """The input for one condition.

    Args:
        condition: its index among the pipelines that the tree was compiled from.
        tensor: as the model's input, without the batch axis; ``None`` when a step failed.
        error: what failed, or ``None``.
    """

    condition: int
    tensor: npt.NDArray[Any] | None
    error: str | None


@dataclass
class Node:
    """One step, what follows it, and the conditions whose pipeline ends with it."""

    step: Step
    key: str
    function: StepFunction
    children: dict[str, Node] = field(default_factory=dict)
    conditions: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Tree:
    """Pipelines as a prefix tree."""

    roots: dict[str, Node]

    def walk(
        self, data: bytes, sample_id: str, seed: int, seconds: dict[str, float] | None = None
    ) -> Iterator[Prepared]:
        """Yield the input of every condition, depth first, so that only one branch is held at a time.

        Args:
            data: the encoded picture.
            sample_id: for the random generators.
            seed: of the run.
            seconds: stage -> seconds, added to.
        """
        clock: dict[str, float] = {} if seconds is None else seconds
        for node in self.roots.values():
            yield from _walk(node, data, (sample_id, seed), clock)

    def walk_sample(self, sample: Sample, seed: int) -> Iterator[Prepared]:
        """As `walk`; a file that cannot be read fails every condition."""
        try:
            data = sample.read()
        except OSError as error:
            yield from (Prepared(condition, None, f"read: {error}") for condition in self.conditions())
            return
        yield from self.walk(data, sample.id, seed)

    def conditions(self) -> Iterator[int]:
        """Every condition, in the order in which `walk` yields them."""
        for node in self.roots.values():
            yield from _below(node)

    def step_counts(self) -> dict[str, int]:
        """How often each stage runs for one picture."""
        counts: dict[str, int] = {}
        nodes = list(self.roots.values())
        while nodes:
            node = nodes.pop()
            counts[node.step.stage] = counts.get(node.step.stage, 0) + 1
            nodes.extend(node.children.values())
        return counts


def compile_tree(pipelines: Sequence[Pipeline], conditions: Sequence[int] | None = None) -> Tree:
    """Merge the common beginnings of pipelines; equal pipelines end in the same node.

    Args:
        conditions: what the results are called, an index for every pipeline; by default its position.

    Raises:
        HarnessError: a step is unknown or refuses its parameters.
    """
    roots: dict[str, Node] = {}
    for condition, pipeline in zip(conditions or range(len(pipelines)), pipelines, strict=True):
        children = roots
        node = None
        for step in pipeline.steps:
            node = children.get(step.key)
            if node is None:
                node = children[step.key] = Node(step, step.key, step_function(step))
            children = node.children
        if node is not None:
            node.conditions.append(condition)
    return Tree(roots)


def _walk(node: Node, value: Any, identity: tuple[str, int], seconds: dict[str, float]) -> Iterator[Prepared]:
    sample_id, seed = identity
    started = time.perf_counter()
    try:
        result = node.function(value, generator(seed, node.key, sample_id))
    except Exception as error:  # noqa: BLE001 - a picture that breaks a step is a row with its error
        yield from (Prepared(condition, None, _message(node, error)) for condition in _below(node))
        return
    finally:
        elapsed = time.perf_counter() - started
        seconds[node.step.stage] = seconds.get(node.step.stage, 0.0) + elapsed
    yield from (Prepared(condition, result, None) for condition in node.conditions)
    for child in node.children.values():
        yield from _walk(child, result, identity, seconds)


def _below(node: Node) -> Iterator[int]:
    yield from node.conditions
    for child in node.children.values():
        yield from _below(child)


def _message(node: Node, error: Exception) -> str:
    return f"{node.step.row}: {type(error).__name__}: {error}"
