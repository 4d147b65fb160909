"""Timing: where the time of a run went, what held it back, and what would help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engines import CPU_NAMES
from harness.speed import Staff

BUSY_CORES = 0.85  # share of the cores' time from which on they are the limit
STARVED = 0.25  # share of their time for which callers waited for pictures
BUSY_ENGINES = 0.8  # share of wall time with a call in flight to any engine
BLOCKED = 0.25  # share of their time for which workers waited for room
ENGINE = "engine "  # in front of an engine's name among the kinds of work


def timing_from_parts(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Times over all parts, however many sessions wrote them, as JSON.

    ``wall_seconds`` add up, also where parts were measured side by side, by several machines or actors;
    ``work_seconds`` is what each stage and engine took, added over threads and processes; ``busy_share`` is the share
    of wall time in which an engine had a call in flight, ``engines_share`` that in which any had; ``cores_share`` the
    share of the cores' time that was used; ``starved_share`` the share of the callers' time without a picture to work
    on; ``blocked_share`` the share of the workers' time without room for another. Shares are ``None`` where there is
    nothing to divide by, that of the cores also where an emulated processor used them: nobody told how much.
    """
    wall = sum(part["wall_seconds"] for part in parts)
    engines_of_run = {engine for part in parts for engine in part["engines"]}
    emulated = engines_of_run & {f"ort-{name}" for name in CPU_NAMES}
    staffs: dict[tuple[int, int, int], float] = {}
    for part in parts:
        # A picture that goes through several lanes is in a part of each; all of them together are one picture.
        staff = (part["workers"], part["callers"], part["batch"])
        pictures = part["pictures"] * len(part["engines"]) / len(engines_of_run)
        staffs[staff] = staffs.get(staff, 0.0) + pictures
    stages = _sum([part["stage_seconds"] for part in parts])
    engines = _sum([part["engine_seconds"] for part in parts])
    busy = _sum([part["busy_seconds"] for part in parts])
    return {
        "wall_seconds": wall,
        "pictures_per_second": _ratio(sum(staffs.values()), wall),
        "staffs": [
            {"workers": workers, "callers": callers, "batch": batch, "pictures": round(count)}
            for (workers, callers, batch), count in staffs.items()
        ],
        "trials": max((part["trials"] for part in parts), key=len, default=[]),
        "work_seconds": {**stages, **{f"{ENGINE}{name}": seconds for name, seconds in engines.items()}},
        "busy_share": {name: _ratio(seconds, wall) for name, seconds in busy.items()},
        "engines_share": _ratio(sum(part["any_engine_busy_seconds"] for part in parts), wall),
        "cores": max((part["cores"] for part in parts), default=0),
        "cores_share": None if emulated else _share(parts, "cpu_seconds", "cores"),
        "starved_share": _share([part for part in parts if part["workers"]], "starved_seconds", "callers"),
        "blocked_share": _share(parts, "blocked_seconds", "workers"),
        "queue_depth": _mean_depth(parts),
    }


def bottleneck(timing: Mapping[str, Any]) -> str:
    """What held the run back and what would help, as a sentence or two; "" where nothing was measured."""
    if not timing["work_seconds"] or not timing["wall_seconds"]:
        return ""
    cores, engines = timing["cores_share"], timing["engines_share"]
    starved, blocked = timing["starved_share"], timing["blocked_share"]
    if cores is not None and cores >= BUSY_CORES:
        return f"The {timing['cores']} cores were the limit, busy for {_percent(cores)} of the time; {_largest(timing)}"
    if starved is not None and starved >= STARVED:
        return (
            f"Preparation was the limit: callers waited for pictures for {_percent(starved)} of their time. More "
            f"workers would help (--workers)."
        )
    if engines >= BUSY_ENGINES:
        busy = timing["busy_share"]
        slowest = max(busy, key=lambda name: busy[name])
        free = "" if cores is None else " while cores were free"
        return (
            f"The engines were the limit, busy for {_percent(engines)} of the time{free}, {slowest} for "
            f"{_percent(busy[slowest])}. Larger batches (--batch) or more callers (--callers) would help, if the "
            f"engines can use them."
        )
    if blocked is not None and blocked >= BLOCKED:
        return (
            f"The engines held the line back: workers had no room for another picture for {_percent(blocked)} of "
            f"their time. More callers (--callers) would help."
        )
    return _nothing_full(timing)


def _nothing_full(timing: Mapping[str, Any]) -> str:
    """What is known where nothing was the limit."""
    cores, engines = timing["cores_share"], timing["engines_share"]
    if cores is None:
        return (
            f"The engines were busy for {_percent(engines)} of the time. How busy the cores were is not known, because "
            f"an emulated processor runs in a process of its own; so neither is what would help."
        )
    read = timing["work_seconds"].get("read", 0.0) / sum(timing["work_seconds"].values())
    return (
        f"Nothing was busy all the time: the cores for {_percent(cores)}, the engines for {_percent(engines)}, and "
        f"reading was {_percent(read)} of the work. More workers (--workers) or callers (--callers) would help."
    )


def _largest(timing: Mapping[str, Any]) -> str:
    """What most of the work was, and what would make it less; all engines together are one kind of work."""
    work: dict[str, float] = {}
    for name, seconds in timing["work_seconds"].items():
        kind = "inference" if name.startswith(ENGINE) else name
        work[kind] = work.get(kind, 0.0) + seconds
    largest = max(work, key=lambda name: work[name])
    less = "running engines on an accelerator" if largest == "inference" else "fewer settings per noise"
    share = work[largest] / sum(work.values())
    return f"the largest consumer was {largest} with {_percent(share)} of the work. More cores would help, or {less}."


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


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
