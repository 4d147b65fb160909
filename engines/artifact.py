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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from engines import FORMATS

OUTPUT_KINDS = ("logits", "probabilities")


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
        format: row of `engines.FORMATS`.
        sha256: of the file's bytes, external weights included.
        input: float32 [N, 3, H, W] or [N, H, W, 3]; uint8 where the graph normalises levels itself.
        output: float32 [N, classes].
        output_kind: "logits" or "probabilities"; declared or read from the graph, never guessed from values.
        quantised: whether the file holds integers that stand for real numbers.
        preprocessing: steps from encoded bytes to the input, as JSON; ``None`` where nobody declared them.
        classes: names in the order of the outputs, or ``None``.
        made_by: how the file came to be: tool, options, versions, hash of the parent.
        as_it_is: whether it runs in one version alone: a plan, a .tflite file, operators with integers inside.
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
    as_it_is: bool = False

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


class ReadModel(Protocol):
    """What a row of `engines.FORMATS` names: it reads the file's declarations, and runs nothing of it."""

    def __call__(self, path: Path, trust: bool = False) -> Artifact:
        """The artifact of a model file.

        Args:
            trust: take bytes that are not those that its sidecar describes.

        Raises:
            ArtifactError: no such file, one that cannot be used, or a sidecar of other bytes.
        """


def format_of(path: Path) -> str:
    """The row of `engines.FORMATS` of a model file: what its sidecar says, else by its ending, else ONNX."""
    by_ending = (name for name, row in FORMATS.items() if path.suffix in row.endings)
    return str(read_sidecar(path).get("format") or next(by_ending, "onnx"))


def declared(path: Path, digest: str, trust: bool = False) -> dict[str, Any]:
    """`read_sidecar` of a model whose bytes have this SHA-256.

    Args:
        trust: take a sidecar of other bytes.

    Raises:
        ArtifactError: the sidecar belongs to other bytes.
    """
    sidecar = read_sidecar(path)
    if sidecar.get("sha256", digest) != digest and not trust:
        raise ArtifactError(
            f"{path} is not the file that its sidecar {path.name}.json describes (SHA-256 {digest[:12]}..., "
            f"declared {sidecar['sha256'][:12]}...); export it again or delete the sidecar"
        )
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


def only(path: Path, what: str, specs: list[TensorSpec], rank: int) -> TensorSpec:
    """The one input or output of a classifier.

    Raises:
        ArtifactError: there are others, or it has another rank or element type.
    """
    expected = "float32 or uint8 [N, 3, H, W]" if what == "input" else "float32 [N, classes]"
    dtypes = ("float32", "uint8") if what == "input" else ("float32",)
    found = ", ".join(f"{spec.name} {spec.dtype} {spec.shape_text}" for spec in specs)
    if len(specs) != 1 or len(specs[0].shape) != rank or specs[0].dtype not in dtypes:
        raise ArtifactError(
            f"{path}: expected one {what}, {expected}; got {len(specs)}: {found}. "
            f"Export the classifier alone, with one picture in and one row of class scores out"
        )
    return specs[0]


def checked(artifact: Artifact) -> Artifact:
    """The artifact, whose output takes the batch of its input.

    Raises:
        ArtifactError: the input is no square picture of three colours, or the class list has another length.
    """
    shape = artifact.input.shape
    if 3 not in (shape[1], shape[3]):
        raise ArtifactError(
            f"{artifact.path}: expected three colour channels, [N, 3, H, W] or [N, H, W, 3]; "
            f"got {artifact.input.shape_text}"
        )
    height, width = artifact.size
    if height != width:
        raise ArtifactError(f"{artifact.path}: expected a square input; got {height} x {width}")
    if artifact.classes is not None and len(artifact.classes) != artifact.class_count:
        raise ArtifactError(
            f"{artifact.path}: the sidecar names {len(artifact.classes)} classes, the output has {artifact.class_count}"
        )
    if artifact.output.shape[0] not in (None, artifact.fixed_batch):
        # Exporters often leave a stale batch on the output; the input decides.
        return replace(artifact, output=replace(artifact.output, shape=(None, artifact.class_count)))
    return artifact
