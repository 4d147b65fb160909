"""Engines on the device: TensorRT's INT8, and how far it and ONNX Runtime on CUDA are from ONNX Runtime on the CPU."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.artifact import Artifact, ArtifactError, sidecar_path
from engines.base import EngineError, EngineOptions, OpenEngine, call
from engines.cuda.engine import RingEngine
from engines.cuda.ring import SLOTS
from engines.cuda.transfers import transfers_named
from engines.ort import open_cpu
from engines.trt.record import artifact_from_plan
from exporters.levels import with_levels
from harness.batches import Bundle, Preparer
from harness.bench import Load
from harness.device_timing import DeviceTimed, observe
from harness.plan import plan
from harness.recipe import Recipe
from harness.record import logit_distances
from harness.registry import engine_certifier

Opener = Callable[[str], OpenEngine]
DEFAULT = EngineOptions()
ON_A_GPU = ("ort-cuda", "ort-tensorrt", "tensorrt")

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="session")
def pictures(recipe: Recipe) -> np.ndarray:
    """Every picture of the recipe as the network takes it."""
    made = plan(recipe)
    samples = made.scored.samples
    preparation = made.preparation(len(samples))
    return next(iter(Preparer(preparation).batches(Bundle(0, tuple(samples)), preparation.place))).inputs


def answers(opener: OpenEngine, artifact: Artifact, batch: np.ndarray, options: EngineOptions = DEFAULT) -> np.ndarray:
    with closing(opener(artifact, options)) as engine:
        return call(engine, {artifact.input.name: batch}).outputs[artifact.output.name]


def distances(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Relative logit distance of every picture, as the records have it."""
    return np.array(logit_distances(ours, theirs, "logits"))


@pytest.mark.parametrize("engine", ON_A_GPU)
def test_float_network_answers_as_on_the_cpu(
    opener: Opener, engine: str, float_model: Artifact, pictures: np.ndarray
) -> None:
    """TF32 inside ONNX Runtime's TensorRT rounds products to 10 bits; the other two compute in all of float32."""
    found = distances(answers(opener(engine), float_model, pictures), answers(open_cpu, float_model, pictures))
    assert found.max() < (1e-2 if engine == "ort-tensorrt" else 1e-3), f"largest logit distance {found.max():.2e}"


def test_tensorrt_runs_the_projects_qdq_file_on_integer_kernels(
    opener: Opener, for_tensorrt: Artifact, pictures: np.ndarray
) -> None:
    opener("tensorrt")
    proof = engine_certifier("tensorrt")(for_tensorrt, EngineOptions(), {for_tensorrt.input.name: pictures[:8]})
    assert proof.integer_fraction is not None
    assert proof.integer_fraction > 0.9, [layer.reason for layer in proof.fallbacks]


def test_tensorrt_agrees_with_the_integer_engine_of_the_cpu(
    opener: Opener,
    for_tensorrt: Artifact,
    for_cpu: Artifact,
    pictures: np.ndarray,
    record_property: Callable[[str, object], None],
) -> None:
    ours, theirs = answers(opener("tensorrt"), for_tensorrt, pictures), answers(open_cpu, for_cpu, pictures)
    agreement = float((ours.argmax(axis=1) == theirs.argmax(axis=1)).mean())
    found = distances(ours, theirs)
    record_property("pictures", len(pictures))
    record_property("top1_agreement", agreement)
    record_property("median_logit_distance", float(np.median(found)))
    print(f"{len(pictures)} pictures: top-1 agreement {agreement:.4f}, median logit distance {np.median(found):.4f}")
    assert agreement > 0.9
    assert np.median(found) < 0.2


@pytest.mark.parametrize("engine", ON_A_GPU)
def test_threads_on_the_ring_get_bitwise_what_one_call_after_another_gets(
    opener: Opener, engine: str, float_model: Artifact, pictures: np.ndarray
) -> None:
    name, output = float_model.input.name, float_model.output.name
    draw = np.random.default_rng(0)
    batches = [pictures[draw.choice(len(pictures), 4, replace=False)] for _ in range(300)]
    with closing(opener(engine)(float_model, EngineOptions())) as opened:
        alone = [call(opened, {name: batch}).outputs[output] for batch in batches]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda batch: call(opened, {name: batch}).outputs[output], batches))
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(together, alone, strict=True))


@pytest.mark.parametrize("engine", ON_A_GPU)
def test_page_locked_memory_of_others_gives_the_same_answers(
    opener: Opener, engine: str, float_model: Artifact, pictures: np.ndarray
) -> None:
    batch = pictures[:4]
    memory = np.zeros(4096 + batch.nbytes, np.uint8)
    locked = memory[4096:].view(batch.dtype).reshape(batch.shape)
    locked[:] = batch
    with closing(opener(engine)(float_model, EngineOptions())) as opened:
        plain = call(opened, {float_model.input.name: batch}).outputs
        assert isinstance(opened, RingEngine)
        opened.page_lock(memory)
        slot = opened.submit({float_model.input.name: locked})
        assert slot.source is locked, "it was copied into the slot first"
        direct = opened.collect(slot)
    assert all(np.array_equal(plain[name], direct[name]) for name in plain)


def test_cuda_graphs_of_several_batch_sizes_change_no_answer(
    opener: Opener, for_tensorrt: Artifact, pictures: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each size is captured once, and launched again after another size was captured."""
    open_plan = opener("tensorrt")
    transfers = transfers_named("cuda-bindings")
    done: list[str] = []
    for name in ("capture", "launch"):
        monkeypatch.setattr(transfers, name, _noted(done, name, getattr(transfers, name)))
    batches = [pictures[at : at + rows] for at, rows in ((0, 5), (5, 3), (8, 5), (13, 3), (16, 5))]
    feed = for_tensorrt.input.name
    found = []
    for options in (EngineOptions(), EngineOptions(cuda_graph=True, transfers="cuda-bindings")):
        with closing(open_plan(for_tensorrt, options)) as engine:
            found.append([call(engine, {feed: batch}).outputs[for_tensorrt.output.name] for batch in batches])
    assert all(np.array_equal(plain, graph) for plain, graph in zip(*found, strict=True))
    assert done.count("capture") == 2
    assert done.count("launch") == len(batches)


def _noted(done: list[str], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def note(*arguments: Any) -> Any:
        done.append(name)
        return function(*arguments)

    return note


@pytest.mark.parametrize("engine", ["ort-cuda", "tensorrt"])
def test_levels_on_the_device_are_close_to_floats_from_the_host(
    opener: Opener, engine: str, float_model: Artifact, recipe: Recipe, tmp_path: Path, pictures: np.ndarray
) -> None:
    levels = with_levels(float_model, tmp_path / "levels.onnx")
    params = levels.made_by["levels"]["normalise"]
    planes = pictures.transpose(0, 2, 3, 1) * np.float32(params["std"]) + np.float32(params["mean"])
    batch = np.ascontiguousarray(np.rint(planes * params["scale"]).astype(np.uint8))
    found = distances(answers(opener(engine), levels, batch), answers(opener(engine), float_model, pictures))
    print(f"{engine}: largest logit distance of levels from floats {found.max():.2e}")
    assert found.max() < 1e-3


def test_plan_with_a_changed_sidecar_is_refused(opener: Opener, for_tensorrt: Artifact, tmp_path: Path) -> None:
    engine = opener("tensorrt")
    engine(for_tensorrt, EngineOptions()).close()
    (built,) = for_tensorrt.path.parent.glob(f"{for_tensorrt.path.name}.*.plan")
    plan_file = tmp_path / "m.plan"
    plan_file.write_bytes(built.read_bytes())
    sidecar = json.loads(sidecar_path(built).read_text())
    sidecar_path(plan_file).write_text(json.dumps(sidecar))
    whole = artifact_from_plan(plan_file)
    engine(whole, EngineOptions()).close()
    sidecar_path(plan_file).write_text(json.dumps({**sidecar, "sha256": "0" * 64}))
    with pytest.raises(ArtifactError, match="is not the plan that its sidecar"):
        artifact_from_plan(plan_file)
    sidecar["made_by"]["plan"]["built_on"]["compute_capability"] = "5.0"
    sidecar_path(plan_file).write_text(json.dumps(sidecar))
    with pytest.raises(EngineError, match=r"built for compute capability 5\.0"):
        engine(artifact_from_plan(plan_file), EngineOptions())
    plan_file.write_bytes(built.read_bytes() + b"\0")
    with pytest.raises(ArtifactError, match="is not the plan that its sidecar"):
        engine(whole, EngineOptions())


def test_batch_larger_than_the_device_is_said_and_the_next_one_answered(
    opener: Opener, float_model: Artifact, pictures: np.ndarray
) -> None:
    """The pages of the batch are never touched, so the host need not have them. TensorRT would cut it."""
    name = float_model.input.name
    rows = (1 << 40) // pictures[0].nbytes
    huge = np.lib.stride_tricks.as_strided(pictures, (rows, *pictures.shape[1:]), (0, *pictures.strides[1:]))
    with closing(opener("ort-cuda")(float_model, EngineOptions())) as opened:
        with pytest.raises(EngineError, match="smaller --batch"):
            call(opened, {name: huge})
        assert len(call(opened, {name: pictures[:2]}).outputs[float_model.output.name]) == 2


@pytest.mark.parametrize("engine", ["ort-tensorrt", "tensorrt"])
def test_no_call_pays_for_a_build(opener: Opener, engine: str, float_model: Artifact, pictures: np.ndarray) -> None:
    """Also a batch that is smaller or larger than all before takes far less than opening did."""
    begun = time.perf_counter()
    opened = opener(engine)(float_model, EngineOptions())
    opening_ms = 1e3 * (time.perf_counter() - begun)
    with closing(opened):
        assert opened.facts()["batch"] == [1, 8, 64]
        took_ms = [call(opened, {float_model.input.name: pictures[:rows]}).wall_ns / 1e6 for rows in (8, 1, 32)]
        print(engine, f"opened in {opening_ms:.0f} ms, calls", took_ms)
        if engine == "ort-tensorrt":  # it keeps no plan, so it was built just now
            assert max(took_ms) < opening_ms / 2


@pytest.mark.parametrize("engine", ON_A_GPU)
def test_device_times_add_up(opener: Opener, engine: str, float_model: Artifact) -> None:
    with closing(opener(engine)(float_model, EngineOptions())) as opened:
        assert isinstance(opened, DeviceTimed)
        seen = observe(opened, float_model, Load(seconds=2.0, streams=8))
    numbers = {metric: value for metric, (value, _, _) in seen.numbers().items()}
    print(engine, {metric: round(value, 3) for metric, value in numbers.items()})
    for each in seen.stages:
        assert min(each.copy_in_ms, each.compute_ms, each.copy_out_ms) > 0.0
    assert len(seen.stages) == len(seen.calls_ms) > SLOTS
    assert sum(each.compute_ms for each in seen.stages) <= 1e3 * seen.wall_s, "one stream computes one batch at a time"
    assert numbers["GB/s copied in"] < 500.0, "faster than any bus"
    assert numbers["p50 latency ms without transfers"] < numbers["p50 latency ms with transfers"]
    assert 0.0 <= numbers["starvation"] <= 1.0
