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
    """How long calls of one engine, or of any, took: one by one and as a whole."""

    in_flight: int = 0
    since: float = 0.0
    call_seconds: float = 0.0
    busy_seconds: float = 0.0

    def begin(self, now: float) -> None:
        """A call begins."""
        if self.in_flight == 0:
            self.since = now
        self.in_flight += 1

    def end(self, started: float, now: float) -> None:
        """The call that was started then ends."""
        self.call_seconds += now - started
        self.in_flight -= 1
        if self.in_flight == 0:
            self.busy_seconds += now - self.since

    def take(self, now: float) -> tuple[float, float]:
        """Seconds of calls, and those for which it was busy, since this was last asked."""
        if self.in_flight:
            self.busy_seconds += now - self.since
            self.since = now
        taken = self.call_seconds, self.busy_seconds
        self.call_seconds = self.busy_seconds = 0.0
        return taken


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
        self._any_engine = _Engine()
        self._lap = _Lap(perf_counter(), _own_cpu_seconds())

    @contextmanager
    def engine(self, name: str) -> Iterator[None]:
        """An engine is at work. It is busy while at least one call is in flight."""
        with self._lock:
            both = (self._engines.setdefault(name, _Engine()), self._any_engine)
            started = perf_counter()
            for each in both:
                each.begin(started)
        try:
            yield
        finally:
            with self._lock:
                ended = perf_counter()
                for each in both:
                    each.end(started, ended)

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
            engines = {name: engine.take(now) for name, engine in self._engines.items()}
            _, any_busy = self._any_engine.take(now)
            lap = self._lap
            told = {
                "wall_seconds": now - lap.started,
                "cpu_seconds": own_cpu - lap.own_cpu + lap.worker_cpu,
                "cores": usable_cores(),
                "stage_seconds": lap.stages,
                "engine_seconds": {name: called for name, (called, _) in engines.items()},
                "busy_seconds": {name: busy for name, (_, busy) in engines.items()},
                "any_engine_busy_seconds": any_busy,
                "starved_seconds": lap.starved,
                "blocked_seconds": lap.blocked,
                "queue_depth": lap.depth / lap.taken if lap.taken else 0.0,
            }
            self._lap = _Lap(now, own_cpu)
            return told


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _own_cpu_seconds() -> float:
    """Of this process; what runs in a child, as an emulated processor does, is not in it."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
