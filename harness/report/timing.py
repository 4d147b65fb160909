"""Timing: where the time of a run went, what held it back, and what would help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.speed import Staff

BUSY_CORES = 0.85  # share of the cores' time from which on they are the limit
STARVED = 0.25  # share of their time for which callers waited for pictures
BUSY_ENGINE = 0.8  # share of wall time with a call in flight


def timing_from_parts(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Times over all parts, however many sessions wrote them, as JSON.

    ``work_seconds`` is what each stage and engine took, added over threads and processes; ``busy_share`` is the share
    of wall time in which an engine had a call in flight; ``cores_share`` the share of the cores' time that was used;
    ``starved_share`` the share of the callers' time without a picture to work on; ``blocked_share`` the share of the
    workers' time without room for another. Shares are ``None`` where there is nothing to divide by.
    """
    wall = sum(part["wall_seconds"] for part in parts)
    engines_of_run = {engine for part in parts for engine in part["engines"]}
    pictures = sum(part["pictures"] * len(part["engines"]) for part in parts) / max(1, len(engines_of_run))
    staffs: dict[tuple[int, int, int], int] = {}
    for part in parts:
        staff = (part["workers"], part["callers"], part["batch"])
        staffs[staff] = staffs.get(staff, 0) + part["pictures"]
    stages = _sum([part["stage_seconds"] for part in parts])
    engines = _sum([part["engine_seconds"] for part in parts])
    busy = _sum([part["busy_seconds"] for part in parts])
    return {
        "wall_seconds": wall,
        "pictures_per_second": _ratio(pictures, wall),
        "staffs": [
            {"workers": workers, "callers": callers, "batch": batch, "pictures": count}
            for (workers, callers, batch), count in staffs.items()
        ],
        "trials": max((part["trials"] for part in parts), key=len, default=[]),
        "work_seconds": {**stages, **{f"engine {name}": seconds for name, seconds in engines.items()}},
        "busy_share": {name: _ratio(seconds, wall) for name, seconds in busy.items()},
        "cores": max((part["cores"] for part in parts), default=0),
        "cores_share": _share(parts, "cpu_seconds", "cores"),
        "starved_share": _share([part for part in parts if part["workers"]], "starved_seconds", "callers"),
        "blocked_share": _share(parts, "blocked_seconds", "workers"),
        "queue_depth": _mean_depth(parts),
    }


def bottleneck(timing: Mapping[str, Any]) -> str:
    """What held the run back and what would help, as a sentence or two; "" where nothing was measured."""
    work, busy = timing["work_seconds"], timing["busy_share"]
    if not work or not timing["wall_seconds"]:
        return ""
    largest = max(work, key=lambda name: work[name])
    share = 100 * work[largest] / sum(work.values())
    if timing["cores_share"] >= BUSY_CORES:
        held = (
            f"The {timing['cores']} cores were the limit, busy for {100 * timing['cores_share']:.0f} % of the time; "
            f"the largest consumer was {largest} with {share:.0f} % of the work."
        )
        if largest.startswith("engine "):
            return f"{held} More cores would help, or running that engine on an accelerator."
        return f"{held} More cores would help, or fewer settings per noise."
    starved = timing["starved_share"]
    if starved is not None and starved >= STARVED:
        return (
            f"Preparation was the limit: callers waited for pictures for {100 * starved:.0f} % of their time. More "
            f"workers would help (--workers)."
        )
    slowest = max(busy, key=lambda name: busy[name], default=None)
    if slowest is not None and busy[slowest] >= BUSY_ENGINE:
        return (
            f"{slowest} was the limit, busy for {100 * busy[slowest]:.0f} % of the time while cores were free. Larger "
            f"batches (--batch) or more callers (--callers) would help, if that engine can use them."
        )
    read = 100 * work.get("read", 0.0) / sum(work.values())
    return (
        f"Nothing was busy all the time: the cores for {100 * timing['cores_share']:.0f} %, reading was {read:.0f} % "
        f"of the work. More workers (--workers) or callers (--callers) would help."
    )


def staff_text(staff: Mapping[str, int]) -> str:
    """Who prepared and who called, in words."""
    return f"{Staff(staff['workers'], staff['callers'])} in batches of {staff['batch']}"


def _sum(dictionaries: Sequence[Mapping[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for dictionary in dictionaries:
        for name, value in dictionary.items():
            total[name] = total.get(name, 0.0) + value
    return total


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _share(parts: Sequence[Mapping[str, Any]], used: str, units: str) -> float | None:
    """Seconds used, as a share of the wall time of all units."""
    return _ratio(sum(part[used] for part in parts), sum(part["wall_seconds"] * part[units] for part in parts))


def _mean_depth(parts: Sequence[Mapping[str, Any]]) -> float | None:
    """Batches that were ready when one was taken, on average, where workers prepared them."""
    fed = [part for part in parts if part["workers"]]
    return _ratio(sum(part["queue_depth"] * part["pictures"] for part in fed), sum(part["pictures"] for part in fed))
