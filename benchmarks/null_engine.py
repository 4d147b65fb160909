"""The engine that answers at once, as a row of the engine table: a run with it shows what the harness costs."""

from __future__ import annotations

from engines import ENGINES, Entry
from engines.artifact import Artifact
from engines.base import Engine, EngineOptions
from harness.bench import NullEngine


def open_null(artifact: Artifact, options: EngineOptions) -> Engine:
    """An engine that does nothing."""
    del options
    return NullEngine(artifact)


def use_null_engine() -> None:
    """Add the engine "null" to the table of this process."""
    certify = "engines.ort_certificate:certify_cpu"  # never called: there is only a float version
    ENGINES["null"] = Entry("benchmarks.null_engine:open_null", "answers at once", "cpu", certify, "ort-cpu")
