"""What a source of networks is asked for, and what it gives."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from exporters.base import ExportError
from noise.base import Pipeline, Step

if TYPE_CHECKING:
    import torch

# The label set whose names are WordNet ids; who knows their order declares them.
IMAGENET_1K = "imagenet-1k"

# What stands behind the @ of a name whose weights are to be drawn, not loaded.
RANDOM = "random"

SHOWN_NAMES = 5


@dataclass(frozen=True)
class Request:
    """What is wanted of a source.

    Args:
        name: what follows the source's own name and its colon.
        classes: outputs that the network must have; 0 for as many as its weights have.
        seed: of weights that are drawn.
        untrained: the architecture alone; somebody else brings the weights.
        entry: of a checkpoint that holds several sets of weights: the key of the one that is meant.
        architecture: how a source of bare weights gets its network: `Load` of another source, with its request.
    """

    name: str
    classes: int = 0
    seed: int = 0
    untrained: bool = False
    entry: str = ""
    architecture: Architecture | None = None


@dataclass(frozen=True)
class Network:
    """A network and all that is known of it.

    Args:
        module: takes float32 [n, 3, H, W].
        about: where network and weights come from, as JSON; of an architecture alone ``preprocessing_of`` names the
            published weights whose pipeline it has.
        pipeline: from the bytes of a picture to the network's input; ``None`` where nobody says.
        tested: the pipeline of the size that its authors test at, where it is another than ``pipeline``; else ``None``.
        classes: names in the order of the outputs, or ``None``.
        label_set: `IMAGENET_1K` where the outputs are its classes in the order of the WordNet ids.
        notes: what the user should know, a sentence each.
    """

    module: torch.nn.Module
    about: Mapping[str, Any]
    pipeline: Pipeline | None = None
    tested: Pipeline | None = None
    classes: tuple[str, ...] | None = None
    label_set: str = ""
    notes: tuple[str, ...] = ()


Load = Callable[[Request], Network]


@dataclass(frozen=True)
class Architecture:
    """A network to be filled with weights: its spec, and how to make it."""

    spec: str
    load: Load
    request: Request

    def network(self, classes: int) -> Network:
        """The network with as many outputs; 0 for as many as the architecture has by default."""
        return self.load(replace(self.request, classes=classes, untrained=True))


def no_such(what: str, got: str, known: Iterable[str], where: str) -> ExportError:
    """The error for a name that a library does not have: the nearest ones, and where all stand."""
    known = list(known)
    near = difflib.get_close_matches(got, known, n=SHOWN_NAMES, cutoff=0.5)
    hint = f"the nearest are {', '.join(near)}" if near else f"there are {listed(known)}"
    return ExportError(f"there is no {what} {got!r}; {hint}. All names: {where}")


def listed(names: Iterable[str]) -> str:
    """A few names and how many more there are.

    >>> listed("abcdefg")
    'a, b, c, d, e and 2 more'
    """
    every = list(names)
    more = len(every) - SHOWN_NAMES
    return ", ".join(every[:SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")


def picture_pipeline(resize: Mapping[str, Any], crop: int, mean: Iterable[float], std: Iterable[float]) -> Pipeline:
    """The steps that torchvision and timm both take: Pillow, shorter side, centre, (x / 255 - mean) / std.

    Args:
        resize: parameters of the step resize.pillow.
        crop: height and width of the network's input, in pixels.
        mean, std: of levels from 0 to 1, one for each channel.
    """
    return Pipeline(
        (
            Step("decode", "pillow", {}),
            Step("resize", "pillow", dict(resize)),
            Step("crop", "centre", {"size": crop}),
            Step("normalise", "float32", {"scale": 255.0, "mean": list(mean), "std": list(std)}),
            Step("layout", "nchw", {}),
        )
    )
