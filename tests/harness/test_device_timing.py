"""Device timing: numbers that follow from what the events said, for engines that have a device."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engines import ENGINES, Entry
from engines.base import EngineError, EngineOptions
from engines.cuda.engine import RingEngine
from engines.cuda.ring import SLOTS, Stages
from engines.cuda.transfers import Bytes
from engines.ort import open_cpu
from harness.bench import Load
from harness.cli import main
from harness.demo.embedded import demo_recipe
from harness.device_timing import DeviceTimed, Observed, observe
from tests.engines.cuda.lazy import LazyCuda
from tests.engines.test_ort_network import Deferred
from tests.engines.tiny import SIZE, tiny_artifact

PIPELINED = Observed(
    calls_ms=[6.0] * 100, stages=[Stages(2.0, 2.0, 2.0)] * 100, wall_s=0.2, pictures=4, nbytes=2_000_000
)


def test_numbers_follow_from_stages_and_wall_time() -> None:
    """A hundred batches of three stages of 2 ms in 200 ms: always all three at work, and the engine never waits."""
    numbers = {metric: value for metric, (value, _, _) in PIPELINED.numbers().items()}
    assert numbers["p99 latency ms with transfers"] == 6.0
    assert numbers["p50 latency ms without transfers"] == 2.0
    assert numbers["pictures per second"] == pytest.approx(2000)
    assert numbers["GB/s copied in"] == pytest.approx(1.0)
    assert numbers["overlap"] == pytest.approx(2 / 3)
    assert numbers["starvation"] == pytest.approx(0.0)


def test_engine_that_waits_for_each_batch_overlaps_nothing_and_starves() -> None:
    numbers = replace(PIPELINED, wall_s=0.6).numbers()
    assert numbers["overlap"][0] == pytest.approx(0.0)
    assert numbers["starvation"][0] == pytest.approx(2 / 3)


def test_percentiles_have_intervals_where_there_are_enough_calls() -> None:
    calls = list(np.random.default_rng(0).exponential(size=2000))
    value, low, high = replace(PIPELINED, calls_ms=calls).numbers()["p90 latency ms with transfers"]
    assert low is not None
    assert high is not None
    assert low < value < high


def test_calls_are_made_from_page_locked_memory_and_every_batch_is_counted(tmp_path: Path) -> None:
    artifact = tiny_artifact(tmp_path)
    locked: list[int] = []

    class Noting(LazyCuda):
        def lock(self, memory: Bytes) -> None:
            locked.append(memory.nbytes)
            super().lock(memory)

    cuda = Noting(np.random.default_rng(0))
    with closing(RingEngine(artifact, cuda, lambda transfers, stream: Deferred(artifact, transfers, stream))) as engine:
        seen = observe(engine, artifact, Load(seconds=0.3, streams=2))
    assert locked == [SLOTS * seen.nbytes]
    assert len(seen.calls_ms) == len(seen.stages) > 0
    assert (seen.pictures, seen.nbytes) == (2, 2 * 3 * SIZE * SIZE * 4)
    assert seen.wall_s >= 0.3
    assert min(each.compute_ms for each in seen.stages) > 0


def test_engine_that_fails_in_a_thread_fails_the_measurement(tmp_path: Path) -> None:
    artifact = tiny_artifact(tmp_path)

    class FailsLater(Deferred):
        left = 20

        def enqueue(self, rows: int, source: int, target: int) -> None:
            self.left -= 1
            if self.left < 0:
                raise EngineError("out of memory")
            super().enqueue(rows, source, target)

    engine = RingEngine(artifact, LazyCuda(), lambda transfers, stream: FailsLater(artifact, transfers, stream))
    with closing(engine), pytest.raises(EngineError, match="out of memory"):
        observe(engine, artifact, Load(seconds=5.0, streams=2))


def test_ctrl_c_waits_for_the_threads_before_memory_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = tiny_artifact(tmp_path)
    interrupted: list[threading.Thread] = []
    join = threading.Thread.join

    def interrupt(thread: threading.Thread, timeout: float | None = None) -> None:
        if not interrupted:
            interrupted.append(thread)
            raise KeyboardInterrupt
        join(thread, timeout)

    monkeypatch.setattr(threading.Thread, "join", interrupt)
    before = set(threading.enumerate())
    engine = RingEngine(artifact, LazyCuda(), lambda transfers, stream: Deferred(artifact, transfers, stream))
    started = time.perf_counter()
    with closing(engine), pytest.raises(KeyboardInterrupt):
        observe(engine, artifact, Load(seconds=60.0, streams=2))
    assert set(threading.enumerate()) <= before, "a thread still writes into the memory of the engine"
    assert time.perf_counter() - started < 30


def test_engine_on_the_cpu_has_no_device_times(tmp_path: Path) -> None:
    with closing(open_cpu(tiny_artifact(tmp_path), EngineOptions())) as engine:
        assert not isinstance(engine, DeviceTimed)


def test_bench_shows_a_table_of_the_device(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    certify = "engines.ort_certificate:certify_cpu"
    row = Entry("tests.harness.test_page_lock:open_noting", "a double", "cpu", certify, "ort-cpu")
    monkeypatch.setitem(ENGINES, "ring", row)
    monkeypatch.chdir(tmp_path)
    recipe = demo_recipe()
    words = ["bench", recipe.model, "--data", recipe.data, "--engines", "ring:fp32,ort-cpu:fp32", "--seconds", "0.1"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "ring:fp32 on the device" in out
    assert "ort-cpu:fp32 on the device" not in out
    for metric in PIPELINED.numbers():
        assert metric in out
