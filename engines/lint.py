"""Lint: what of a file does not suit a target, in the form in which every linter of `engines.LINTERS` says it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ERROR, WARNING = "error", "warning"


@dataclass(frozen=True)
class Finding:
    """One thing in a file that does not suit a target.

    Args:
        rule: name of the rule that it violates.
        severity: `ERROR` where the target refuses the file, `WARNING` where it runs slower or in float.
        node: the node's name in the file.
        message: what was expected and what was found.
        mend: what to do.
    """

    rule: str
    severity: str
    node: str
    message: str
    mend: str


# From a file's path to everything in it that does not suit; an `engines.artifact.ArtifactError` where it is no ONNX.
Lint = Callable[[Path], tuple[Finding, ...]]
