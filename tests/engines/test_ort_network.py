"""ONNX Runtime on the ring. The device is a double whose memory is the host's, so the session is real, on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engines.artifact import Artifact
from engines.base import EngineError, EngineOptions, EngineUnavailable, call
from engines.cuda.engine import RingEngine
from engines.cuda.transfers import Transfers
from engines.ort import CPU, open_cpu
from engines.ort_network import OrtNetwork, session_on
from engines.trt.provider import profile_options
from tests.engines import conformance
from tests.engines.cuda.lazy import LazyCuda, LazyStream
from tests.engines.tiny import SIZE, pictures, tiny_artifact

ON_CPU = ((CPU, {}),)
BATCH, OTHER = pictures(3, seed=1), pictures(5, seed=2)


class Deferred(OrtNetwork):
    """A session that runs when its stream comes to it, as on a GPU."""

    def __init__(self, artifact: Artifact, cuda: Transfers, stream: LazyStream) -> None:
        super().__init__(artifact, EngineOptions(), ON_CPU, device="cpu")
        assert isinstance(cuda, LazyCuda)
        self.cuda, self.stream = cuda, stream

    def enqueue(self, rows: int, source: int, target: int) -> None:
        self.cuda.give(self.stream, lambda: super(Deferred, self).enqueue(rows, source, target))


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return tiny_artifact(tmp_path)


@pytest.fixture
def engine(artifact: Artifact) -> RingEngine:
    cuda = LazyCuda(np.random.default_rng(0))
    return RingEngine(artifact, cuda, lambda transfers, stream: Deferred(artifact, transfers, stream))


def test_session_on_the_ring_answers_as_a_session_does(artifact: Artifact, engine: RingEngine) -> None:
    plain = open_cpu(artifact, EngineOptions())
    for batch in (BATCH, OTHER, BATCH[:1], OTHER[1:3]):
        got, wanted = (call(each, {"x": batch}).outputs["y"] for each in (engine, plain))
        assert np.array_equal(got, wanted)
    engine.close()
    plain.close()


def test_session_on_the_ring_leaves_its_outputs_to_the_caller(artifact: Artifact) -> None:
    def opened() -> RingEngine:
        return RingEngine(artifact, LazyCuda(), lambda transfers, stream: Deferred(artifact, transfers, stream))

    conformance.check_caller_owns_outputs(opened, BATCH, OTHER[:3])
    conformance.check_closes(opened, BATCH)
    conformance.check_threads(opened, [BATCH, OTHER, BATCH[:1]])


def test_facts_are_those_of_session_and_device(engine: RingEngine) -> None:
    facts = engine.facts()
    assert facts["provider"] == CPU
    assert facts["device"] == "a double without a device"
    assert facts["transfers"] == "lazy 1"
    engine.close()


def test_network_that_is_built_for_some_batches_says_which_and_is_given_no_larger_one(artifact: Artifact) -> None:
    network = OrtNetwork(artifact, EngineOptions(), ON_CPU, (1, 8, 64), device="cpu")
    assert (network.most_rows, network.facts()["batch"]) == (64, [1, 8, 64])
    network.close()


def test_provider_of_tensorrt_is_told_the_batches_that_it_builds_for(artifact: Artifact) -> None:
    assert profile_options(artifact, (1, 8, 64)) == {
        "trt_profile_min_shapes": f"x:1x3x{SIZE}x{SIZE}",
        "trt_profile_opt_shapes": f"x:8x3x{SIZE}x{SIZE}",
        "trt_profile_max_shapes": f"x:64x3x{SIZE}x{SIZE}",
    }


def test_failure_of_the_session_names_the_file(artifact: Artifact) -> None:
    cuda = LazyCuda()
    network = OrtNetwork(artifact, EngineOptions(), ON_CPU, device="cpu")
    network.close()
    with pytest.raises(EngineError, match=r"tiny\.onnx is closed"):
        network.enqueue(1, cuda.allocate(8), cuda.allocate(8))


def test_provider_that_does_not_start_is_unavailable(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    class FallsBack:
        def get_providers(self) -> list[str]:
            return [CPU]

    monkeypatch.setattr("engines.ort_network.ort.InferenceSession", lambda *_, **__: FallsBack())
    with pytest.raises(EngineUnavailable, match=r"asked ONNX Runtime for CUDA.*, got \['CPU.*driver are missing"):
        session_on(str(artifact.path), None, (("CUDAExecutionProvider", {}),))
