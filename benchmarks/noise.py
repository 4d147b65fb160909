"""Milliseconds per picture of every corruption, beside `imagecorruptions` and its maintained fork in one run.

The peers run in virtual environments of their own below ``.venv-peers``, made on first use; the requests go round,
so that whatever else the machine does meets all of them.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.figure import Figure
from benchmarks.peers import installed, python_of
from harness.demo.embedded import demo_recipe
from harness.memory import keep_freed_memory
from noise.base import MissingData
from noise.corrupt import corrupt, corruption_names

SEVERITIES = (1, 3, 5)
SIDE = 224
ROUNDS = 3
SECONDS = 0.1


class Peer:
    """One peer at work in its own process."""

    def __init__(self, name: str, picture: Path) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [python_of(name), "-W", "ignore", str(Path(__file__).with_name("peer.py")), str(picture)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._read()

    def milliseconds(self, corruption: str, severity: int) -> float:
        """The median over `SECONDS`, after a fifth of them that does not count."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([corruption, severity, SECONDS]) + "\n")
        self.process.stdin.flush()
        return float(self._read())

    def close(self) -> None:
        """End the process."""
        self.process.communicate()

    def _read(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended unexpectedly")
        return str(json.loads(line))


def measure(folder: Path) -> Figure:
    """Every corruption at severities 1, 3 and 5 on an embedded picture of 224 x 224, one thread."""
    cv2.setNumThreads(1)
    keep_freed_memory()
    picture = _picture()
    np.save(folder / "picture.npy", picture)
    names = [name for name in corruption_names() if name != "procedural_frost" and _available(name, picture)]
    ratios: dict[str, list[float]] = {}
    rows: list[dict[str, str | int | float]] = []
    slowest = (0.0, "")
    with ExitStack() as stack:
        peers = [stack.enter_context(closing(Peer(name, folder / "picture.npy"))) for name in installed()]
        for name in names:
            cells = [_cell(picture, name, severity, peers) for severity in SEVERITIES]
            row: dict[str, str | int | float] = {
                "corruption": name,
                "qharness ms at 1 / 3 / 5": _joined(c[0] for c in cells),
            }
            for index, peer in enumerate(peers, start=1):
                times = [cell[index] / cell[0] for cell in cells]
                ratios.setdefault(peer.name, []).extend(times)
                row[f"{peer.name} ms"] = _joined(cell[index] for cell in cells)
                row[f"{peer.name} / qharness"] = " / ".join(f"{value:.1f}" for value in times)
            rows.append(row)
            slowest = max(slowest, *((cell[0], f"{name}:{s}") for cell, s in zip(cells, SEVERITIES, strict=True)))
    means = [
        f"{peer} takes {math.exp(statistics.fmean(map(math.log, values))):.1f} times as long (geometric mean over "
        f"{len(values)} cells; at least {min(values):.2f} times)"
        for peer, values in ratios.items()
    ]
    sentences = [
        *means,
        f"the slowest cell is {slowest[1]} with {slowest[0]:.2f} ms",
        f"two threads do {_two_threads(picture, names):.2f} times the work of one",
    ]
    return Figure(f"Corruptions of a picture of {SIDE} x {SIDE}, one thread", rows, "; ".join(sentences) + ".")


def _picture() -> npt.NDArray[np.uint8]:
    path = sorted(Path(demo_recipe().data).rglob("*.jpg"))[0]
    return np.asarray(Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def _available(name: str, picture: npt.NDArray[np.uint8]) -> bool:
    try:
        corrupt(picture, name, 1)
    except MissingData as error:
        print(f"{name} is left out: {error}")
        return False
    return True


def _cell(picture: npt.NDArray[np.uint8], name: str, severity: int, peers: Sequence[Peer]) -> list[float]:
    """Milliseconds of qharness, then of the peers: of some rounds the fastest one."""
    best = [math.inf] * (1 + len(peers))
    for _ in range(ROUNDS):
        times = [_milliseconds(lambda i: corrupt(picture, name, severity, sample_id=str(i)))]
        times += [peer.milliseconds(name, severity) for peer in peers]
        best = [min(pair) for pair in zip(best, times, strict=True)]
    return best


def _milliseconds(work: Callable[[int], object]) -> float:
    """As peer.py does it."""
    begun = time.perf_counter()
    spent: list[float] = []
    while not spent or time.perf_counter() < begun + 1.2 * SECONDS:
        started = time.perf_counter()
        work(len(spent))
        if started > begun + 0.2 * SECONDS:
            spent.append(1e3 * (time.perf_counter() - started))
    return statistics.median(spent)


def _two_threads(picture: npt.NDArray[np.uint8], names: Sequence[str]) -> float:
    """How much more two threads do than one, all corruptions at severity 3; the best of some trials."""

    def everything(index: int) -> None:
        for name in names:
            corrupt(picture, name, 3, sample_id=str(index))

    ratios = []
    for _ in range(5):
        seconds = []
        for threads in (1, 2):
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(everything, range(threads)))  # warm
                started = time.perf_counter()
                list(pool.map(everything, range(24)))
                seconds.append(time.perf_counter() - started)
        ratios.append(seconds[0] / seconds[1])
    return max(ratios)


def _joined(values: Iterable[float]) -> str:
    return " / ".join(f"{value:.2f}" for value in values)
