"""Meter: where the time of a run goes, told by everything that takes part in it."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any


@dataclass
class _Engine:
    """How long calls of one engine took, one by one and as a whole."""

    in_flight: int = 0
    since: float = 0.0
    call_seconds: float = 0.0
    busy_seconds: float = 0.0


@dataclass
class _Lap:
    """What was measured since the last lap."""

    started: float
    own_cpu: float
    stages: dict[str, float] = field(default_factory=dict)
    worker_cpu: float = 0.0
    blocked: float = 0.0
    starved: float = 0.0
    depth: int = 0
    taken: int = 0


class Meter:
    """Adds up times; any thread may tell it something."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._engines: dict[str, _Engine] = {}
        self._lap = _Lap(perf_counter(), _own_cpu_seconds())

    @contextmanager
    def engine(self, name: str) -> Iterator[None]:
        """An engine is at work. It is busy while at least one call is in flight."""
        with self._lock:
            engine = self._engines.setdefault(name, _Engine())
            started = perf_counter()
            if engine.in_flight == 0:
                engine.since = started
            engine.in_flight += 1
        try:
            yield
        finally:
            with self._lock:
                ended = perf_counter()
                engine.call_seconds += ended - started
                engine.in_flight -= 1
                if engine.in_flight == 0:
                    engine.busy_seconds += ended - engine.since

    def prepared(self, stages: Mapping[str, float], cpu: float = 0.0, blocked: float = 0.0) -> None:
        """Pictures were prepared.

        Args:
            stages: stage -> seconds.
            cpu: seconds of processor time, where another process spent them.
            blocked: seconds for which that process waited for room.
        """
        with self._lock:
            for stage, seconds in stages.items():
                self._lap.stages[stage] = self._lap.stages.get(stage, 0.0) + seconds
            self._lap.worker_cpu += cpu
            self._lap.blocked += blocked

    def taken(self, depth: int, starved: float) -> None:
        """A caller took a batch: how many were there, and how many seconds it had to wait."""
        with self._lock:
            self._lap.depth += depth
            self._lap.taken += 1
            self._lap.starved += starved

    def lap(self) -> dict[str, Any]:
        """Everything since the last lap, as JSON; times in seconds."""
        with self._lock:
            now, own_cpu = perf_counter(), _own_cpu_seconds()
            for engine in self._engines.values():
                if engine.in_flight:
                    engine.busy_seconds += now - engine.since
                    engine.since = now
            lap = self._lap
            told = {
                "wall_seconds": now - lap.started,
                "cpu_seconds": own_cpu - lap.own_cpu + lap.worker_cpu,
                "cores": usable_cores(),
                "stage_seconds": lap.stages,
                "engine_seconds": {name: engine.call_seconds for name, engine in self._engines.items()},
                "busy_seconds": {name: engine.busy_seconds for name, engine in self._engines.items()},
                "starved_seconds": lap.starved,
                "blocked_seconds": lap.blocked,
                "queue_depth": lap.depth / lap.taken if lap.taken else 0.0,
            }
            self._lap = _Lap(now, own_cpu)
            for engine in self._engines.values():
                engine.call_seconds = engine.busy_seconds = 0.0
            return told


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _own_cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
