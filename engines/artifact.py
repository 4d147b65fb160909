"""Artifact: a network in a file, and everything about it that the file itself cannot say.

Beside ``m.onnx`` lies ``m.onnx.json``, its sidecar: hash, preprocessing, output kind, class list, parentage.
The preprocessing belongs to the artifact because a network without it is only half a network; here it is JSON
that this floor carries without reading it.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engines import BUILDERS

OUTPUT_KINDS = ("logits", "probabilities")
FORMATS = ("onnx", *(row.format for row in BUILDERS.values()))


class ArtifactError(ValueError):
    """A model file or its sidecar is not usable; the message says what to change."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: name, NumPy dtype name, and shape with ``None`` where any length is accepted."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def accepts(self, shape: Sequence[int]) -> bool:
        """Whether an array of this shape fits."""
        return len(shape) == len(self.shape) and all(
            want in (None, got) for want, got in zip(self.shape, shape, strict=True)
        )

    @property
    def shape_text(self) -> str:
        """The shape as a person writes it: ``[N, 3, 224, 224]``."""
        return "[" + ", ".join("N" if n is None else str(n) for n in self.shape) + "]"


@dataclass(frozen=True)
class Artifact:
    """A model file with its declarations.

    Args:
        path: the file.
        format: "onnx", or that of a row of `engines.BUILDERS`.
        sha256: of the file's bytes, external weights included.
        input: float32 [N, 3, H, W] or [N, H, W, 3]; uint8 where the graph normalises levels itself.
        output: float32 [N, classes].
        output_kind: "logits" or "probabilities"; declared or read from the graph, never guessed from values.
        quantised: whether the file holds integers: Q/DQ nodes, or weights in 4 bits.
        preprocessing: steps from encoded bytes to the input, as JSON; ``None`` where nobody declared them.
        classes: names in the order of the outputs, or ``None``.
        made_by: how the file came to be: tool, options, versions, hash of the parent.
    """

    path: Path
    format: str
    sha256: str
    input: TensorSpec
    output: TensorSpec
    output_kind: str
    quantised: bool
    preprocessing: tuple[Mapping[str, Any], ...] | None = None
    classes: tuple[str, ...] | None = None
    made_by: Mapping[str, Any] = field(default_factory=dict)

    @property
    def session_config(self) -> Mapping[str, str]:
        """The entries of ONNX Runtime's session configuration without which it would change what the file says."""
        config: Mapping[str, str] = self.made_by.get("session_config", {})
        return config

    @property
    def layout(self) -> str:
        """ "nchw" or "nhwc", from the place of the three channels."""
        return "nchw" if self.input.shape[1] == 3 else "nhwc"

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the input, in pixels."""
        height, width = self.input.shape[2:] if self.layout == "nchw" else self.input.shape[1:3]
        if height is None or width is None:
            raise ArtifactError(
                f"{self.path}: the input {self.input.shape_text} has no fixed height and width; export it with one size"
            )
        return height, width

    @property
    def fixed_batch(self) -> int | None:
        """The batch that the file insists on, or ``None`` when any will do."""
        return self.input.shape[0]

    @property
    def class_count(self) -> int:
        """The number of outputs per picture."""
        count = self.output.shape[1]
        if count is None:
            raise ArtifactError(f"{self.path}: the output {self.output.shape_text} has no fixed class count")
        return count


def sidecar_path(path: Path) -> Path:
    """Where the sidecar of a model file lies."""
    return path.with_name(path.name + ".json")


def read_sidecar(path: Path) -> dict[str, Any]:
    """The sidecar of the model at ``path``, or ``{}`` when there is none.

    Raises:
        ArtifactError: it is not JSON, has an unknown key, or its hash is not that of the file.
    """
    file = sidecar_path(path)
    if not file.exists():
        return {}
    try:
        sidecar = json.loads(file.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{file} is not JSON: {error}") from error
    if not isinstance(sidecar, dict):
        raise ArtifactError(f"{file} must hold one JSON object; got {type(sidecar).__name__}")
    for key, value in sidecar.items():
        if key not in SIDECAR_KEYS:
            near = difflib.get_close_matches(key, SIDECAR_KEYS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise ArtifactError(f"{file} has an unknown key {key!r}{hint} Known: {', '.join(SIDECAR_KEYS)}")
        expected, fits = SIDECAR_KEYS[key]
        if not fits(value):
            raise ArtifactError(f"{file}: {key} must be {expected}; got {json.dumps(value)[:60]}")
    return sidecar


def _list_of(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(isinstance(each, kind) for each in value)


# key -> what its value must be, and the test for it
SIDECAR_KEYS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "format": (f"one of {', '.join(FORMATS)}", lambda value: value in FORMATS),
    "sha256": ("64 hexadecimal digits", lambda value: isinstance(value, str) and len(value) == 64),
    "preprocessing": ("a list of steps", lambda value: _list_of(dict)(value) and bool(value)),
    "output_kind": ("'logits' or 'probabilities'", lambda value: value in OUTPUT_KINDS),
    "classes": (
        "a list of different names",
        lambda value: _list_of(str)(value) and len(set(value)) == len(value),
    ),
    "made_by": ("an object", lambda value: isinstance(value, dict)),
}


def write_sidecar(artifact: Artifact) -> Path:
    """Write everything that the file itself cannot say; returns the sidecar's path."""
    file = sidecar_path(artifact.path)
    content = {
        "format": artifact.format,
        "sha256": artifact.sha256,
        "preprocessing": None if artifact.preprocessing is None else list(artifact.preprocessing),
        "output_kind": artifact.output_kind,
        "classes": None if artifact.classes is None else list(artifact.classes),
        "made_by": dict(artifact.made_by),
    }
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}, indent=1))
    return file


def sha256_of(*paths: Path) -> str:
    """SHA-256 over the bytes of the files, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
