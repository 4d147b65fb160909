"""The child of `engines.emulated`: an ONNX Runtime engine that is told over a pipe what to do.

Requests are ``open``, ``run``, ``facts`` and ``certify``; the end of the pipe ends the process. Importing is slow
under emulation, so this imports little.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from engines.artifact import Artifact, TensorSpec
from engines.base import Array, EngineError, EngineOptions
from engines.ort import OrtEngine, open_cpu
from engines.pipe import PipeClosed, receive, send

Answer = tuple[dict[str, Any], dict[str, Array]]


def artifact_as_json(artifact: Artifact) -> dict[str, Any]:
    """What running an artifact takes, for `artifact_from_json` in another process."""
    return {
        "path": str(artifact.path.resolve()),
        "format": artifact.format,
        "sha256": artifact.sha256,
        "input": _spec_as_json(artifact.input),
        "output": _spec_as_json(artifact.output),
        "output_kind": artifact.output_kind,
        "quantised": artifact.quantised,
        "made_by": {"session_config": dict(artifact.session_config)},
    }


def artifact_from_json(content: Mapping[str, Any]) -> Artifact:
    """The artifact that `artifact_as_json` described."""
    return Artifact(
        **{
            **content,
            "path": Path(content["path"]),
            "input": _spec_from_json(content["input"]),
            "output": _spec_from_json(content["output"]),
        }
    )


def _spec_as_json(spec: TensorSpec) -> dict[str, Any]:
    return {field.name: getattr(spec, field.name) for field in fields(spec)}


def _spec_from_json(content: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(content["name"], content["dtype"], tuple(content["shape"]))


class Worker:
    """At most one engine, and the answers to requests about it."""

    def __init__(self) -> None:
        self.engine: OrtEngine | None = None

    def answer(self, request: Mapping[str, Any], arrays: Mapping[str, Array]) -> Answer:
        """What one request returns.

        Raises:
            EngineError: as `engines.ort` raises it.
        """
        if request["do"] == "open":
            self.engine = open_cpu(artifact_from_json(request["artifact"]), EngineOptions(**request["options"]))
            return self.engine.facts(), {}
        if request["do"] == "certify":
            return _certificate(request, arrays), {}
        if self.engine is None:
            raise EngineError(f"the worker was asked to {request['do']} before it was given a file")
        if request["do"] == "facts":
            return self.engine.facts(), {}
        return {}, self.engine.run(arrays)


def _certificate(request: Mapping[str, Any], arrays: Mapping[str, Array]) -> dict[str, Any]:
    # Not at the top: it imports onnx, which an engine that only runs does not need.
    from engines.ort_certificate import certify_cpu

    artifact, options = artifact_from_json(request["artifact"]), EngineOptions(**request["options"])
    return certify_cpu(artifact, options, arrays).describe()


def main() -> None:
    """Answer requests on standard input until it ends."""
    requests = sys.stdin.buffer
    # Whatever a library prints goes to standard error; answers have the pipe to themselves.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    worker = Worker()
    while True:
        try:
            request, arrays = receive(requests)
        except PipeClosed:
            return
        try:
            content, outputs = worker.answer(request, arrays)
            send(answers, {"answer": content}, outputs)
        except EngineError as error:
            send(answers, {"error": str(error)}, {})
        except BrokenPipeError:  # the parent went away meanwhile
            return


if __name__ == "__main__":
    main()
