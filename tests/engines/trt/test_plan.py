"""Loading a plan: only the plan that its sidecar describes, only where it was built for."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.artifact import Artifact, ArtifactError
from engines.base import EngineError, EngineOptions
from engines.building import BuildOptions
from engines.cuda.device import Device
from engines.trt.record import PlanRecord, Station, artifact_from_plan, differences
from tests.engines.trt.conftest import DEVICE, Install, build, module
from tests.engines.trt.double import MAGIC, VERSIONS, Behaviour


def load(path: Path, trust: bool = False) -> Any:
    return module("plan").engine_from_artifact(artifact_from_plan(path, trust))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_plan_loads_where_it_was_built(version: str, install: Install, quantised: Artifact) -> None:
    asked = install(version).asked
    assert load(build(quantised).artifact.path) is not None
    assert asked["host_code"] is False


def test_a_version_compatible_plan_may_bring_its_own_runtime(install: Install, quantised: Artifact) -> None:
    asked = install("10.16").asked
    load(build(quantised, BuildOptions(version_compatible=True)).artifact.path)
    assert asked["host_code"] is True


def test_a_changed_plan_is_refused_unless_it_is_trusted(install: Install, quantised: Artifact) -> None:
    install("10.16")
    path = build(quantised).artifact.path
    path.write_bytes(path.read_bytes().replace(b"draft", b"other"))
    with pytest.raises(
        ArtifactError, match=r"is not the plan that its sidecar m.plan.json describes.*qharness inspect --trust"
    ):
        load(path)
    assert load(path, trust=True) is not None


def test_trust_is_for_the_bytes_that_were_seen(install: Install, quantised: Artifact) -> None:
    install("10.16")
    path = build(quantised).artifact.path
    path.write_bytes(path.read_bytes() + b"\0")
    artifact = artifact_from_plan(path, trust=True)
    path.write_bytes(path.read_bytes() + b"\1")
    with pytest.raises(ArtifactError, match="is not the plan"):
        module("plan").engine_from_artifact(artifact)


def test_a_plan_without_a_sidecar_is_refused_trusted_or_not(install: Install, quantised: Artifact) -> None:
    install("10.16")
    path = build(quantised).artifact.path
    path.with_name("m.plan.json").unlink()
    for trust in (False, True):
        with pytest.raises(ArtifactError, match=r"has no sidecar m\.plan\.json that says where it was built"):
            load(path, trust)
    with pytest.raises(ArtifactError, match="there is no plan"):
        load(path.with_name("none.plan"))


def test_a_sidecar_with_holes_is_refused(install: Install, quantised: Artifact) -> None:
    install("10.16")
    path = build(quantised).artifact.path
    sidecar = path.with_name("m.plan.json")
    whole = json.loads(sidecar.read_text())
    for key in ("built_on", "options", "layers", "batch"):
        part = json.loads(sidecar.read_text()) | {"made_by": json.loads(json.dumps(whole["made_by"]))}
        del part["made_by"]["plan"][key]
        sidecar.write_text(json.dumps(part))
        with pytest.raises(ArtifactError, match="is not a whole record of a plan"):
            load(path)
    del whole["made_by"]["input"]
    sidecar.write_text(json.dumps(whole))
    with pytest.raises(ArtifactError, match="is not the sidecar of a plan"):
        load(path)


def test_a_damaged_plan_with_a_right_hash_is_refused_by_tensorrt(install: Install, quantised: Artifact) -> None:
    install("10.16")
    path = build(quantised).artifact.path
    path.write_bytes(b"rubbish" + path.read_bytes()[len(MAGIC) :])
    with pytest.raises(EngineError, match=r"cannot load .*magicTag.*The plan is damaged"):
        load(path, trust=True)


def test_a_runtime_that_cannot_start_is_an_error(install: Install, quantised: Artifact) -> None:
    install("10.16")
    path = build(quantised).artifact.path
    install("10.16", Behaviour(starts=False))
    with pytest.raises(EngineError, match=r"TensorRT 10\.16\.1\.11 cannot start here"):
        load(path)


def test_a_gpu_that_is_full_is_told_apart(install: Install, quantised: Artifact) -> None:
    install("10.16")
    path = build(quantised).artifact.path
    install("10.16", Behaviour(load_error="Requested amount of GPU memory could not be allocated: out of memory"))
    with pytest.raises(EngineError, match=r"out of memory.*stop what else uses it"):
        load(path)


def test_a_plan_is_refused_elsewhere_with_the_difference(install: Install, quantised: Artifact) -> None:
    install("10.16")
    path = build(quantised).artifact.path
    install("11.4")
    with pytest.raises(EngineError, match=r"built by TensorRT 10\.16\.1\.11, here is 11\.4\.0\.106.*qharness build m"):
        load(path)
    install("10.16", device=Device("NVIDIA Orin", "8.7", "12.6", None))
    with pytest.raises(EngineError, match=r"capability 9\.0 \(NVIDIA Double 9000\), here is 8\.7 \(NVIDIA Orin\)"):
        load(path)
    install("10.16", device=replace(DEVICE, name="NVIDIA Double 9000 Ti"))
    with pytest.raises(EngineError, match="built for NVIDIA Double 9000, here is NVIDIA Double 9000 Ti"):
        load(path)


def test_a_newer_driver_is_no_other_machine(install: Install, quantised: Artifact) -> None:
    install("10.16")
    path = build(quantised).artifact.path
    install("10.16", device=replace(DEVICE, driver="590.10", cuda="13.1"))
    assert load(path) is not None


HERE = Station("10.16.1.11", "NVIDIA A", "8.6", "13.0", None)


def record(built_on: Station, options: BuildOptions) -> PlanRecord:
    return PlanRecord("m.onnx", "0" * 64, "1" * 64, built_on, options, (), None, (1, 1, 1), ("int8",), ())


@pytest.mark.parametrize(
    ("built", "options", "refused"),
    [
        ({}, {}, False),
        ({"tensorrt": "10.15.0.1"}, {}, True),
        ({"tensorrt": "10.15.0.1"}, {"version_compatible": True}, False),
        ({"tensorrt": "10.17.0.1"}, {"version_compatible": True}, True),
        ({"tensorrt": "11.0.0.1"}, {"version_compatible": True}, True),
        ({"tensorrt": "8.6.0"}, {"version_compatible": True}, True),
        ({"device": "NVIDIA B"}, {}, True),
        ({"device": "NVIDIA B"}, {"hardware": "same-compute-capability"}, False),
        ({"device": "NVIDIA B", "compute_capability": "8.9"}, {"hardware": "same-compute-capability"}, True),
        ({"device": "NVIDIA B", "compute_capability": "8.9"}, {"hardware": "ampere-plus"}, False),
        ({"driver": "550.1", "cuda": "12.4"}, {}, False),
    ],
)
def test_what_counts_as_elsewhere(built: dict[str, str], options: dict[str, Any], refused: bool) -> None:
    assert bool(differences(record(replace(HERE, **built), BuildOptions(**options)), HERE)) is refused


def test_a_version_compatible_plan_of_10_runs_on_11() -> None:
    built = record(HERE, BuildOptions(version_compatible=True))
    assert differences(built, replace(HERE, tensorrt="11.4.0.106")) == ()
    assert differences(built, replace(HERE, tensorrt="12.0.0.1"))


def test_an_ampere_plus_plan_does_not_run_before_ampere() -> None:
    built = record(HERE, BuildOptions(hardware="ampere-plus"))
    found = differences(built, replace(HERE, compute_capability="7.5", device="NVIDIA T4"))
    assert found == ("it runs from compute capability 8.0 on, here is 7.5 (NVIDIA T4)",)


def feeds(batch: int) -> dict[str, Any]:
    return {"x": np.zeros((batch, 3, 8, 8), np.float32)}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_certificate_is_for_the_batch_of_the_feeds(version: str, install: Install, quantised: Artifact) -> None:
    asked = install(version).asked
    plan = build(quantised).artifact
    certificate = module("plan").certify_plan(plan, EngineOptions(), feeds(5))
    assert asked["input_shape"] == (5, 3, 8, 8)
    assert [layer.layer for layer in certificate.layers] == ["stem", "conv"]
    assert certificate.integer_fraction == 1.0
    assert certificate.evidence["runtime"].startswith(f"tensorrt {version}")
    module("plan").certify_plan(plan, EngineOptions(), feeds(100))
    assert asked["input_shape"] == (64, 3, 8, 8), "the largest batch of the plan"


def test_a_gpu_without_memory_for_a_context_is_an_error(install: Install, quantised: Artifact) -> None:
    install("10.16")
    plan = build(quantised).artifact
    install("10.16", Behaviour(has_memory=False))
    with pytest.raises(EngineError, match=r"too little free memory to run m.plan"):
        module("plan").certify_plan(plan, EngineOptions(), feeds(1))


def test_builds_that_differ_are_told_by_their_layers(install: Install, quantised: Artifact) -> None:
    install("10.16")
    first = build(quantised).artifact.path
    compare = module("plan").layers_built_differently
    assert compare([first, first]) == ()


def test_a_sidecar_is_replaced_after_its_plan(
    install: Install, quantised: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("10.16")
    before = build(quantised).artifact.path

    def killed(source: Path, target: Path) -> None:
        if target == before:
            raise KeyboardInterrupt
        Path(source).rename(target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        build(quantised, BuildOptions(level=1))
    assert load(before) is not None, "the plan that was there still loads"
