"""One corruption of one picture in one call, for those who bring their own loop."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache

import numpy as np
import numpy.typing as npt

from noise import NOISES, STEPS
from noise.base import NoiseError, Step, StepFunction, check_picture
from noise.seed import generator


def corrupt(
    picture: npt.NDArray[np.uint8], name: str, severity: int, *, seed: int = 0, sample_id: str = ""
) -> npt.NDArray[np.uint8]:
    """A corrupted copy of a picture, the same bytes as in a run with this seed and this sample.

    Args:
        picture: uint8 [H, W, 3] RGB, at least 32 x 32.
        name: a corruption of `noise.NOISES`.
        severity: 1 to 5; 0 is the identity.
        seed: of the run.
        sample_id: the picture's stable name; pictures with different names get different draws.

    Raises:
        NoiseError: an unknown name, a severity out of range, a picture of another kind or size.
    """
    check_picture(picture)
    settings = _settings(name)
    if type(severity) is not int or severity not in range(len(settings) + 1):
        raise NoiseError(f"the severity of {name} must be 0 to {len(settings)}; got {severity!r}")
    if severity == 0:
        return picture.copy()
    key, function = _step(name, severity)
    return np.asarray(function(picture, generator(seed, key, sample_id)), np.uint8)


def corruption_names() -> tuple[str, ...]:
    """Every name that `corrupt` takes, in the order of the table."""
    return tuple(name for name, row in NOISES.items() if row.target.startswith("noise.corruptions."))


@cache
def _step(name: str, severity: int) -> tuple[str, StepFunction]:
    """The key and the function of a corruption; making a function takes longer than applying it."""
    step = _settings(name)[str(severity)]
    module, _, attribute = STEPS[step.row].target.partition(":")
    return step.key, getattr(importlib.import_module(module), attribute)(**step.params)


def _settings(name: str) -> Mapping[str, Step]:
    known = corruption_names()
    if name not in known:
        nearest = get_close_matches(name, known, 1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise NoiseError(f"no corruption {name!r}{hint} Known: {', '.join(known)}")
    module, _, attribute = NOISES[name].target.partition(":")
    settings: Mapping[str, Step] = getattr(importlib.import_module(module), attribute)
    return settings
