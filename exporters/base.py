"""Calibration as data: the range of every activation, kept apart from any target and any tool.

Ranges are measured once and can be written as Q/DQ for any target. They belong to one model, one list of
pictures and one preprocessing, whose hashes they carry.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class ExportError(ValueError):
    """A model or a calibration cannot be exported; the message says what to change."""


@dataclass(frozen=True)
class Calibration:
    """Ranges of activations, and what they were measured on.

    Args:
        ranges: tensor name -> (lowest, highest) value seen.
        method: "minmax".
        pictures: number of pictures.
        model_sha256: of the file whose tensors these are.
        picture_list: hash over the ids and contents of the pictures.
        preprocessing: hash of the preprocessing that fed them.
        made_by: tool versions.
    """

    ranges: Mapping[str, tuple[float, float]]
    method: str
    pictures: int
    model_sha256: str
    picture_list: str
    preprocessing: str
    made_by: Mapping[str, str]

    def describe(self) -> dict[str, Any]:
        """The calibration as JSON."""
        return {**self.__dict__, "ranges": {name: list(pair) for name, pair in self.ranges.items()}}


def write_calibration(calibration: Calibration, path: Path) -> None:
    """Store a calibration."""
    path.write_text(json.dumps(calibration.describe(), indent=1))
