"""Speed: how fast a run goes, and how its share of the machine is chosen. Nothing here changes a record."""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import HarnessError
from harness.meter import usable_cores


@dataclass(frozen=True)
class Staff:
    """Who does the work.

    Args:
        workers: processes that prepare pictures; 0 has every caller prepare its own.
        callers: threads that call engines.
    """

    workers: int
    callers: int

    def __str__(self) -> str:
        prepared = f"{_many(self.workers, 'worker process')} and " if self.workers else ""
        return prepared + _many(self.callers, "caller thread")


@dataclass(frozen=True)
class Speed:
    """What the user fixed of how fast a run goes.

    Args:
        workers: as `Staff`; ``None`` leaves it to a measurement.
        callers: as `Staff`; ``None`` leaves it to a measurement.
        batch: pictures in one call of an engine, where the model allows it.
    """

    workers: int | None = None
    callers: int | None = None
    batch: int = 4

    def __post_init__(self) -> None:
        lowest = {"workers": 0, "callers": 1, "batch": 1}
        for name, least in lowest.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise HarnessError(f"{name} must be {least} or more; got {value}")

    @property
    def threads(self) -> int:
        """How many threads do work that has no engines in it."""
        return self.workers or usable_cores()

    def candidates(self) -> tuple[Staff, ...]:
        """The staffs that are worth trying, the one that starts at once first; one where all is fixed."""
        cores = usable_cores()
        half = max(1, cores // 2)
        staffs = (Staff(0, cores), Staff(cores, cores), Staff(half, max(1, cores - half)))
        return tuple(
            dict.fromkeys(
                Staff(
                    each.workers if self.workers is None else self.workers,
                    each.callers if self.callers is None else self.callers,
                )
                for each in staffs
            )
        )


def _many(count: int, what: str) -> str:
    plural = "es" if what.endswith("s") else "s"
    return f"{count} {what}{plural if count != 1 else ''}"
