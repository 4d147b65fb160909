"""Cluster: a run on Ray has the rows of a run on one machine, whatever is lost in the middle of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.errors import HarnessError
from harness.extent import Extent, Shard
from harness.progress import Progress
from harness.recipe import Recipe, toml_from_recipe
from harness.session import execute
from harness.speed import Speed
from harness.store import Store
from harness.until import until_from_text

pytest.importorskip("ray", reason="Ray is not installed: pip install 'qharness[ray]'")

from ray.cluster_utils import Cluster

ONE = Speed(workers=0, callers=1)


def rows(folder: Path) -> list[pa.Table]:
    return [pq.read_table(part) for part in sorted(Store(folder).parts())]


def parent_of(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def below(process: int) -> list[int]:
    """All living processes that a process started, and that these started."""
    found = [process]
    for _ in range(8):
        children = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
        found += [each for each in children if parent_of(each) in found and each not in found]
    return found[1:]


def title(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def ends_first_measurer(process: int, parts: Callable[[], int]) -> Iterator[int]:
    """Kill the first actor that is seen at work behind the first part."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        actors = [each for each in below(process) if title(each).startswith("ray::Measurer")]
        if actors and parts():
            os.kill(actors[0], signal.SIGKILL)
            yield actors[0]
            return
        time.sleep(0.005)


def test_a_lost_actor_is_replaced_and_the_rows_are_those_of_one_machine(
    small: Recipe, finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    killed: list[int] = []
    watch = threading.Thread(
        target=lambda: killed.extend(ends_first_measurer(os.getpid(), lambda: len(Store(folder).parts())))
    )
    watch.start()
    execute(small, folder, ONE, Progress(), Extent(ray="local"))
    watch.join()
    assert killed
    ours, theirs = rows(folder), rows(finished)
    assert len(ours) == len(theirs) > 1
    assert all(one.equals(other) for one, other in zip(ours, theirs, strict=True))


def test_a_lost_node_is_done_without(
    small: Recipe, finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two nodes of a real cluster, both on this machine, with an actor each; one is killed in the middle."""
    folder, cluster = tmp_path / "run", Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        second = cluster.add_node(num_cpus=1)
        lost = threading.Event()

        def lose() -> None:
            deadline = time.monotonic() + 90
            while not Store(folder).parts() and time.monotonic() < deadline:
                time.sleep(0.005)
            cluster.remove_node(second, allow_graceful=False)
            lost.set()

        threading.Thread(target=lose).start()
        execute(small, folder, ONE, Progress(), Extent(ray=cluster.address))
        assert lost.wait(60)
    finally:
        cluster.shutdown()
    assert "actors 2, nodes 2" in capfd.readouterr().err
    assert all(one.equals(other) for one, other in zip(rows(folder), rows(finished), strict=True))


def test_a_cluster_that_goes_down_loses_nothing(small: Recipe, finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (tmp_path / "r.toml").write_text(toml_from_recipe(small))
    options = ["--workers", "0", "--callers", "1", "-o", str(folder)]
    command = [sys.executable, "-m", "harness.cli", "run", str(tmp_path / "r.toml"), *options]
    first = subprocess.Popen([*command, "--ray", "local"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    started: set[int] = set()
    try:
        deadline = time.monotonic() + 90
        while not Store(folder).parts() and time.monotonic() < deadline:
            started.update(below(first.pid))
            time.sleep(0.02)
    finally:
        for process in started | {*below(first.pid)}:
            if "ray" in title(process):
                os.kill(process, signal.SIGKILL)
    code = first.wait(60)
    assert code != 0
    assert 0 < len(Store(folder).parts()) < len(Store(finished).parts())
    # The rest on one machine: a run belongs to no cluster.
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert all(one.equals(other) for one, other in zip(rows(folder), rows(finished), strict=True))


def test_no_cluster_is_one_message(small: Recipe, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"there is no Ray cluster at '127\.0\.0\.1:1'"):
        execute(small, tmp_path / "run", ONE, Progress(), Extent(ray="127.0.0.1:1"))


@pytest.mark.parametrize("more", [{"until": until_from_text("ci<5")}, {"shard": Shard(1, 2)}])
def test_what_needs_an_order_is_refused(more: dict[str, object]) -> None:
    with pytest.raises(HarnessError, match="leave --until and --shard out"):
        Extent(ray="local", **more)  # type: ignore[arg-type]
