"""Calibration as data: the range of every activation, kept apart from any target and any tool.

Ranges are measured once and can be written as Q/DQ for any target. They belong to one model, one list of pictures, one
preprocessing and one method, and carry the identity of each.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.float32]
Values = npt.NDArray[np.float32]
Range = tuple[float, float]

FORMAT = "qharness calibration 1"

PER_CHANNEL, PER_TENSOR = "per-channel", "per-tensor"
SYMMETRIC, ASYMMETRIC = "symmetric", "asymmetric"
WEIGHTS = (PER_CHANNEL, PER_TENSOR)
WEIGHT_BITS = (0, 7, 8)
ACTIVATIONS = ("", SYMMETRIC, ASYMMETRIC)


class ExportError(ValueError):
    """A model or a calibration cannot be exported; the message says what to change."""


class Observer(Protocol):
    """A calibration method at work on one tensor. Its memory does not grow with what it sees."""

    def observe(self, values: Values) -> None:
        """Take in the finite values, float32 of any shape, that the tensor has for one picture."""

    def range(self) -> Range:
        """The lowest and the highest value that integers shall cover, after at least one `observe`."""


@dataclass(frozen=True)
class Source:
    """What a calibration is measured on, apart from the model.

    Args:
        method: row of `exporters.METHODS`, with its parameter: "percentile:99.99".
        pictures: id -> hash of the content, of the pictures that were asked for.
        preprocessing: hash of the steps from a picture to the model's input.
        conditions: name -> hash of the steps, of what every picture was measured under: "clean", or noises.
        seed: of the noise.
    """

    method: str
    pictures: Mapping[str, str]
    preprocessing: str
    conditions: Mapping[str, str]
    seed: int = 0

    @property
    def picture_list(self) -> str:
        """A hash over ids and contents."""
        text = "".join(f"{name}\0{content}\n" for name, content in sorted(self.pictures.items()))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def summary(self) -> dict[str, Any]:
        """The source as JSON, the pictures by number and hash."""
        return {**asdict(self), "pictures": len(self.pictures), "picture_list": self.picture_list}

    def difference(self, other: Source) -> str | None:
        """In which way another source is not this one, in words; ``None`` where it is."""
        differences = (
            (self.method, other.method, f"the method {self.method}, not {other.method}"),
            (self.preprocessing, other.preprocessing, "another preprocessing"),
            (self.conditions, other.conditions, f"{_listed(self.conditions)}, not {_listed(other.conditions)}"),
            (self.picture_list, other.picture_list, "other pictures"),
            (self.seed, other.seed, f"the seed {self.seed}, not {other.seed}"),
        )
        return next((text for ours, theirs, text in differences if ours != theirs), None)


@dataclass(frozen=True)
class Calibration:
    """Ranges of activations, and what they were measured on.

    Args:
        ranges: tensor name -> (lowest, highest) value that integers shall cover.
        model_sha256: of the model file.
        source: method, pictures, preprocessing, noise.
        inputs: how many inputs were run: readable pictures times conditions.
        made_by: tool versions.
    """

    ranges: Mapping[str, Range]
    model_sha256: str
    source: Source
    inputs: int
    made_by: Mapping[str, str]

    def summary(self) -> dict[str, Any]:
        """Everything but the ranges and the pictures' names: what a quantised file's sidecar keeps."""
        return {
            **self.source.summary(),
            "inputs": self.inputs,
            "model_sha256": self.model_sha256,
            "made_by": dict(self.made_by),
        }


@dataclass(frozen=True)
class Quantisation:
    """What of a model becomes integers.

    Args:
        target: row of `exporters.TARGETS`.
        weights: "per-channel" or "per-tensor": how many scales a weight has.
        activations: "symmetric", "asymmetric", or "" for what suits the target.
        weight_bits: 8, 7 (safe where sums of two products saturate at 16 bits), or 0 for what suits the target.
        keep_float: patterns of node names, as a shell matches file names, that stay in float.
        only: names of nodes, the only ones that become integers; empty for all.
        improve: rows of `exporters.IMPROVEMENTS`, with their numbers, that help.
    """

    target: str
    weights: str = PER_CHANNEL
    activations: str = ""
    weight_bits: int = 0
    keep_float: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    improve: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for what, got, known in (("weights", self.weights, WEIGHTS), ("activations", self.activations, ACTIVATIONS)):
            if got not in known:
                raise ExportError(f"{what}: expected one of {', '.join(filter(None, known))}; got {got!r}")
        if self.weight_bits not in WEIGHT_BITS:
            raise ExportError(f"weight_bits: expected 7 or 8, or 0 to have it chosen; got {self.weight_bits}")


def made_from(calibration: Calibration, quantisation: Quantisation) -> dict[str, Any]:
    """What determines a quantised file, as JSON; its sidecar keeps it."""
    content = {"quantisation": asdict(quantisation), "calibration": calibration.summary()}
    return cast("dict[str, Any]", json.loads(json.dumps(content)))


def write_calibration(calibration: Calibration, path: Path) -> None:
    """Store a calibration as JSON."""
    path.write_text(json.dumps({"format": FORMAT, **asdict(calibration)}, indent=1) + "\n")


def read_calibration(path: Path) -> Calibration:
    """Read what `write_calibration` stored.

    Raises:
        ExportError: there is no such file, or it holds no calibration of this format.
    """
    if not path.is_file():
        raise ExportError(f"there is no calibration {path}; make one: qharness calibrate MODEL --data DIR -o {path}")
    try:
        stored = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ExportError(f"{path} is not a calibration in JSON: {error}") from error
    found = stored.get("format") if isinstance(stored, dict) else None
    if found != FORMAT:
        raise ExportError(f"{path}: expected a file of the format {FORMAT!r}; got {found!r}; calibrate again")
    try:
        ranges = {name: (float(low), float(high)) for name, (low, high) in stored["ranges"].items()}
        calibration = Calibration(
            ranges, stored["model_sha256"], Source(**stored["source"]), int(stored["inputs"]), stored["made_by"]
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ExportError(f"{path} is not a whole calibration ({error!r}); calibrate again") from error
    for name, (low, high) in ranges.items():
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise ExportError(f"{path}: the range of {name!r} is [{low}, {high}]; calibrate again")
    return calibration


def check_model(calibration: Calibration, model_sha256: str, model: Path) -> None:
    """See that a calibration belongs to a model file.

    Raises:
        ExportError: it was measured on other bytes.
    """
    if calibration.model_sha256 != model_sha256:
        raise ExportError(
            f"the calibration was measured on another model than {model} (SHA-256 {calibration.model_sha256[:12]}..., "
            f"here {model_sha256[:12]}...); calibrate again"
        )


def _listed(conditions: Mapping[str, str]) -> str:
    return " + ".join(conditions)
