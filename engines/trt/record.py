"""The sidecar of a plan: what it was made from, where, and how; enough to refuse it elsewhere and to measure it here.

A plan is code for one GPU and one TensorRT. It inherits preprocessing, classes and output kind from its ONNX file, so
it is an `engines.artifact.Artifact` as that is. Nothing here needs TensorRT.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engines.artifact import Artifact, ArtifactError, TensorSpec, read_sidecar, sidecar_path
from engines.base import EngineError
from engines.building import AMPERE_PLUS, NONE, BuildOptions
from engines.macs import Layer

_AMPERE = 8


@dataclass(frozen=True)
class Station:
    """Where a plan is built or loaded.

    Args:
        tensorrt: version of the library: "10.16.1.11".
        device: the GPU's name.
        compute_capability: "9.0".
        cuda: the newest CUDA that the driver runs.
        driver: version of the driver, or ``None``. A newer driver runs older plans, so it is a fact, not a condition.
    """

    tensorrt: str
    device: str
    compute_capability: str
    cuda: str
    driver: str | None


@dataclass(frozen=True)
class PlanRecord:
    """What is known of a plan.

    Args:
        source: name of the ONNX file.
        source_sha256: of that file, external weights included.
        sha256: of the plan.
        built_on: where.
        options: how.
        flags: the builder's and the network's flags, read back.
        timing_cache_sha256: of the cache that the build left, or ``None``.
        batch: smallest, likeliest and largest batch; three times the same where the model has a fixed one.
        integers: element types of the Q/DQ in the source: "int8", "int4", "float8e4m3fn".
        layers: the source's layers with multiply-accumulates, for the certificate.
    """

    source: str
    source_sha256: str
    sha256: str
    built_on: Station
    options: BuildOptions
    flags: tuple[str, ...]
    timing_cache_sha256: str | None
    batch: tuple[int, int, int]
    integers: tuple[str, ...]
    layers: tuple[Layer, ...]


def made_by(record: PlanRecord, source: Artifact) -> dict[str, Any]:
    """What a plan's sidecar keeps under this name: the record, the tensors, and how the source came to be."""
    return {
        "tool": f"tensorrt {record.built_on.tensorrt}",
        "parent_sha256": record.source_sha256,
        "plan": asdict(record),
        "input": asdict(source.input),
        "output": asdict(source.output),
        "quantised": source.quantised,
        "parent": dict(source.made_by),
    }


def record_from_artifact(artifact: Artifact) -> PlanRecord:
    """The record that a plan's sidecar holds.

    Raises:
        ArtifactError: it holds none, or not a whole one.
    """
    stored = artifact.made_by.get("plan")
    try:
        return _record(stored)
    except (KeyError, TypeError, ValueError, EngineError) as error:
        raise ArtifactError(
            f"{sidecar_path(artifact.path)} is not a whole record of a plan ({error!r}); build the plan again"
        ) from error


def _record(stored: Any) -> PlanRecord:
    options, batch = stored["options"], stored["options"]["batch"]
    return PlanRecord(
        **{
            **stored,
            "built_on": Station(**stored["built_on"]),
            "options": BuildOptions(**{**options, "batch": None if batch is None else tuple(batch)}),
            "flags": tuple(stored["flags"]),
            "batch": tuple(stored["batch"]),
            "integers": tuple(stored["integers"]),
            "layers": tuple(Layer(**layer) for layer in stored["layers"]),
        }
    )


def artifact_from_plan(path: Path, trust: bool = False) -> Artifact:
    """The artifact of a plan, read from its sidecar; the plan's bytes are hashed, not loaded.

    Args:
        trust: take a plan whose bytes are not those that its sidecar describes.

    Raises:
        ArtifactError: no such plan, no sidecar, or a sidecar of other bytes.
    """
    if not path.is_file():
        raise ArtifactError(f"there is no plan {path}")
    sidecar = read_sidecar(path)
    if "made_by" not in sidecar or "sha256" not in sidecar:
        raise ArtifactError(
            f"{path} has no sidecar {sidecar_path(path).name} that says where it was built; build it with qharness "
            f"build, or copy the sidecar that belongs to it"
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != sidecar["sha256"] and not trust:
        raise ArtifactError(mismatch(path, digest, sidecar["sha256"]))
    made: Mapping[str, Any] = sidecar["made_by"]
    classes, steps = sidecar.get("classes"), sidecar.get("preprocessing")
    try:
        return Artifact(
            path=path,
            format="plan",
            sha256=digest,
            input=_spec(made["input"]),
            output=_spec(made["output"]),
            output_kind=sidecar["output_kind"],
            quantised=bool(made["quantised"]),
            preprocessing=tuple(steps) if steps else None,
            classes=None if classes is None else tuple(classes),
            made_by=made,
            as_it_is=True,
        )
    except (KeyError, TypeError) as error:
        raise ArtifactError(
            f"{sidecar_path(path)} is not the sidecar of a plan ({error!r} is missing); build the plan again"
        ) from error


def _spec(stored: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(stored["name"], stored["dtype"], tuple(stored["shape"]))


def mismatch(path: Path, digest: str, declared: str) -> str:
    """The message for a plan that is not the one its sidecar describes. A plan is code, so this is not a detail."""
    return (
        f"{path} is not the plan that its sidecar {sidecar_path(path).name} describes (SHA-256 {digest[:12]}..., "
        f"declared {declared[:12]}...). A plan is code that would run here: build it again, or, if you know "
        f"where it comes from, look at it with qharness inspect --trust"
    )


def differences(record: PlanRecord, here: Station) -> tuple[str, ...]:
    """Why a plan cannot run here, in words; empty where it can."""
    built, options = record.built_on, record.options
    found = []
    if here.tensorrt != built.tensorrt and not (options.version_compatible and _newer(built.tensorrt, here.tensorrt)):
        found.append(f"it was built by TensorRT {built.tensorrt}, here is {here.tensorrt}")
    if options.hardware == AMPERE_PLUS:
        if int(here.compute_capability.split(".")[0]) < _AMPERE:
            found.append(f"it runs from compute capability 8.0 on, here is {here.compute_capability} ({here.device})")
        return tuple(found)
    if here.compute_capability != built.compute_capability:
        found.append(
            f"it was built for compute capability {built.compute_capability} ({built.device}), here is "
            f"{here.compute_capability} ({here.device})"
        )
    elif options.hardware == NONE and here.device != built.device:
        found.append(f"it was built for {built.device}, here is {here.device}")
    return tuple(found)


def _newer(built: str, here: str) -> bool:
    """Whether a version-compatible plan of ``built`` runs on ``here``: never backwards; from 10 on into the next major.

    Source: NVIDIA's page on engine compatibility.
    """
    was, now = (tuple(int(part) for part in version.split(".")[:3]) for version in (built, here))
    return now >= was and (now[0] == was[0] or (was[0] >= 10 and now[0] == was[0] + 1))
