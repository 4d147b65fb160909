"""The engine of a plan, with doubles of TensorRT and of CUDA: what it asks for, and what it says when that fails."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from engines.artifact import Artifact, ArtifactError
from engines.base import Engine, EngineError, EngineOptions, call
from engines.building import BuildOptions
from engines.trt.record import artifact_from_plan
from tests.engines import conformance
from tests.engines.cuda.lazy import LazyCuda
from tests.engines.trt.conftest import DEVICE, Install, build, module
from tests.engines.trt.double import FULL, VERSIONS, Behaviour
from tests.engines.trt.draft import CHANNELS

DEFAULT = EngineOptions()


class Gpu:
    """Both doubles: the kernel of the plan answers with the mean of each picture, plus the number of the output."""

    def __init__(self, install: Install, monkeypatch: pytest.MonkeyPatch, version: str = "11.4") -> None:
        self.cuda = LazyCuda(np.random.default_rng(0))
        self.started: list[tuple[int, int]] = []
        self.behaviour = Behaviour(kernel=self.kernel)
        install(version, self.behaviour)
        monkeypatch.setattr(module("engine"), "transfers_named", lambda name: self.cuda)

    def kernel(self, context: Any, handle: int) -> None:
        shape, addresses = context.shape, context.addresses
        stream = self.cuda.by_handle[handle]
        in_a_graph = stream.captured is not None

        def compute() -> None:
            # A graph keeps addresses inside its context, so it is spoilt when that is given another shape.
            spoilt = in_a_graph and (shape, addresses) != (context.shape, context.addresses)
            pictures = self.cuda.at(addresses["x"], 4 * int(np.prod(shape))).view(np.float32).reshape(shape[0], -1)
            answers = self.cuda.at(addresses["y"], 4 * shape[0] * CHANNELS).view(np.float32)
            answers[:] = np.nan if spoilt else wanted(pictures).reshape(-1)

        self.started.append((shape[0], handle))
        self.cuda.give(stream, compute)

    def open(self, artifact: Artifact, options: EngineOptions = DEFAULT) -> Engine:
        engine: Engine = module("engine").open_tensorrt(artifact, options)
        return engine


@pytest.fixture
def gpu(install: Install, monkeypatch: pytest.MonkeyPatch) -> Gpu:
    return Gpu(install, monkeypatch)


def wanted(batch: np.ndarray) -> np.ndarray:
    means = batch.reshape(len(batch), -1).mean(axis=1, dtype=np.float32)
    return means[:, None] + np.arange(CHANNELS, dtype=np.float32)


def pictures(artifact: Artifact, count: int) -> np.ndarray:
    shape = (count, 3, *artifact.size)
    return np.random.default_rng(count).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("version", VERSIONS)
def test_plan_answers_batches_of_any_size(
    install: Install, monkeypatch: pytest.MonkeyPatch, quantised: Artifact, version: str
) -> None:
    gpu = Gpu(install, monkeypatch, version)
    plan = build(quantised).artifact
    engine = gpu.open(plan)
    for rows in (1, 7, 64, 135):
        batch = pictures(plan, rows)
        assert np.array_equal(call(engine, {"x": batch}).outputs["y"], wanted(batch))
    assert [rows for rows, _ in gpu.started] == [1, 7, 64, 64, 64, 7], "a plan takes 64 pictures at most"
    assert len({handle for _, handle in gpu.started} - {0}) == 1
    assert engine.facts()["runtime"] == f"tensorrt {FULL[version]}"
    engine.close()
    assert gpu.cuda.idle()


def test_plan_of_one_size_is_an_artifact_with_a_fixed_batch(gpu: Gpu, quantised: Artifact) -> None:
    """So whoever feeds it fills up the last batch of a run, as with a model that was exported so."""
    built = build(quantised, BuildOptions(batch=(8, 8, 8))).artifact
    plan = artifact_from_plan(built.path)
    assert quantised.fixed_batch is None
    assert (built.fixed_batch, plan.fixed_batch, plan.output.shape) == (8, 8, (8, CHANNELS))
    engine = gpu.open(plan)
    assert np.array_equal(call(engine, {"x": pictures(plan, 8)}).outputs["y"], wanted(pictures(plan, 8)))
    with pytest.raises(EngineError, match=r"expected float32 \[8, 3, 8, 8\]"):
        call(engine, {"x": pictures(plan, 3)})
    engine.close()


def test_plan_keeps_what_engines_keep(gpu: Gpu, quantised: Artifact) -> None:
    plan = build(quantised).artifact

    def opened() -> Engine:
        return gpu.open(plan)

    batch, other = pictures(plan, 3), pictures(plan, 4)[:3]
    conformance.check_declares_the_artifact(opened, plan)
    conformance.check_caller_owns_outputs(opened, batch, other)
    conformance.check_closes(opened, batch)
    conformance.check_facts(opened, EngineOptions())
    conformance.check_threads(opened, [batch, other, batch[:1]])
    assert gpu.cuda.idle()


def test_graph_is_captured_once_for_a_batch_size_and_slot(gpu: Gpu, quantised: Artifact) -> None:
    engine = gpu.open(build(quantised).artifact, EngineOptions(cuda_graph=True))
    for number in range(6):
        batch = pictures(quantised, 5) + np.float32(number)
        assert np.array_equal(call(engine, {"x": batch}).outputs["y"], wanted(batch))
    assert len(gpu.started) == 2, "once to finish TensorRT's own preparation, once into the graph"
    assert gpu.cuda.captures == 1
    assert engine.facts()["cuda_graph"] is True
    engine.close()
    assert gpu.cuda.idle()


def test_graphs_of_several_batch_sizes_do_not_spoil_each_other(gpu: Gpu, quantised: Artifact) -> None:
    engine = gpu.open(build(quantised).artifact, EngineOptions(cuda_graph=True))
    for number, rows in enumerate((5, 3, 5, 3, 5)):
        batch = pictures(quantised, rows) + np.float32(number)
        assert np.array_equal(call(engine, {"x": batch}).outputs["y"], wanted(batch))
    assert [rows for rows, _ in gpu.started] == [5, 5, 3, 3], "each size is captured once"
    assert gpu.cuda.captures == 2
    engine.close()
    assert gpu.cuda.idle()


def test_model_is_built_once_and_the_plan_taken_the_next_time(gpu: Gpu, quantised: Artifact) -> None:
    theirs = build(quantised, BuildOptions(level=5)).artifact.path
    theirs = theirs.rename(theirs.with_name("m.onnx.plan"))
    before = theirs.read_bytes()
    first, second = gpu.open(quantised), gpu.open(quantised)
    (plan,) = quantised.path.parent.glob("m.onnx.*.plan")
    assert theirs.read_bytes() == before, "a plan that the user built was written over"
    assert first.facts()["plan_sha256"] == second.facts()["plan_sha256"]
    assert tuple(first.inputs) == (quantised.input,)
    del gpu.behaviour.asked["model"]
    third = gpu.open(quantised)
    assert "model" not in gpu.behaviour.asked, "it was built again"
    for engine in (first, second, third):
        engine.close()
    plan.write_bytes(b"something else")
    gpu.open(quantised).close()
    assert "model" in gpu.behaviour.asked, "a damaged plan was taken"
    del gpu.behaviour.asked["model"]
    gpu.open(replace(quantised, sha256="0" * 64)).close()
    assert "model" in gpu.behaviour.asked, "a plan of other bytes was taken"


def test_plan_of_another_gpu_is_built_again(gpu: Gpu, install: Install, quantised: Artifact) -> None:
    gpu.open(quantised).close()
    del gpu.behaviour.asked["model"]
    other = replace(DEVICE, name="NVIDIA Double 5000", compute_capability="8.9")
    module("engine").first_device = module("build").first_device = module("plan").first_device = lambda: other
    gpu.open(quantised).close()
    assert "model" in gpu.behaviour.asked


def test_plan_with_a_changed_sidecar_is_refused(gpu: Gpu, quantised: Artifact) -> None:
    plan = build(quantised).artifact
    sidecar = plan.path.with_name("m.plan.json")
    content = json.loads(sidecar.read_text())
    for change, said in (
        ({"sha256": "0" * 64}, "is not the plan that its sidecar m.plan.json describes"),
        ({"made_by": {**content["made_by"], "plan": {}}}, "is not a whole record of a plan"),
    ):
        sidecar.write_text(json.dumps({**content, **change}))
        with pytest.raises(ArtifactError, match=said):
            gpu.open(artifact_from_plan(plan.path))
    assert gpu.cuda.idle()


@pytest.mark.parametrize(
    "options", [EngineOptions(integer_kernels=False), EngineOptions(threads=2), EngineOptions(optimisation="basic")]
)
def test_option_that_is_built_into_a_plan_is_refused(gpu: Gpu, quantised: Artifact, options: EngineOptions) -> None:
    with pytest.raises(EngineError, match="TensorRT has no option"):
        gpu.open(quantised, options)


def _no_memory(behaviour: Behaviour) -> None:
    behaviour.has_memory = False


def _other_tensors(behaviour: Behaviour) -> None:
    engine: Any = module("library").trt.ICudaEngine
    engine.get_tensor_name = lambda self, index: f"t{index}"


@pytest.mark.parametrize(
    ("breaks", "said"),
    [(_no_memory, "too little free memory to run m.plan"), (_other_tensors, r"has the tensors \['t0', 't1'\]")],
)
def test_plan_that_cannot_be_opened_says_why(gpu: Gpu, quantised: Artifact, breaks: Any, said: str) -> None:
    plan = build(quantised).artifact
    breaks(gpu.behaviour)
    with pytest.raises(EngineError, match=said):
        gpu.open(plan)
    assert gpu.cuda.idle()


def test_plan_that_does_not_start_says_what_to_do_and_works_afterwards(gpu: Gpu, quantised: Artifact) -> None:
    plan = build(quantised).artifact
    engine, batch = gpu.open(plan), pictures(plan, 2)
    gpu.behaviour.kernel = None
    with pytest.raises(EngineError, match=r"could not start m\.plan with 2 pictures.*stop what else uses it"):
        call(engine, {"x": batch})
    gpu.behaviour.kernel = gpu.kernel
    assert np.array_equal(call(engine, {"x": batch}).outputs["y"], wanted(batch))
    engine.close()


def test_certificate_is_that_of_the_plan_that_runs(gpu: Gpu, quantised: Artifact) -> None:
    certificate = module("engine").certify_tensorrt(quantised, EngineOptions(), {"x": pictures(quantised, 1)})
    assert list(quantised.path.parent.glob("m.onnx.*.plan"))
    assert certificate.total_macs > 0
