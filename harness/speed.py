"""Speed: how fast a run goes, and how its share of the machine is chosen. Nothing here changes a record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harness.errors import HarnessError
from harness.meter import usable_cores

WORTH_CHOOSING_SECONDS = 15.0  # a run that is over sooner is not worth a choice


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
        inline: whether callers may prepare their own pictures, where ``workers`` is free.
    """

    workers: int | None = None
    callers: int | None = None
    batch: int = 4
    inline: bool = True

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
        # One caller is enough for an accelerator, unless scoring its answers keeps it waiting; then two are.
        staffs = [Staff(0, cores), Staff(cores, 1), Staff(cores, 2), Staff(half, max(1, cores - half))]
        if not self.inline:
            del staffs[0]
        return tuple(
            dict.fromkeys(
                Staff(
                    each.workers if self.workers is None else self.workers,
                    each.callers if self.callers is None else self.callers,
                )
                for each in staffs
            )
        )


@dataclass(frozen=True)
class Trial:
    """How fast a staff was."""

    staff: Staff
    pictures_per_second: float

    def describe(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self.staff), "pictures_per_second": self.pictures_per_second}


class Choice:
    """Which staff goes on: every candidate for a short while, then the fastest.

    Args:
        candidates: as of `Speed.candidates`; with one there is nothing to choose.
    """

    def __init__(self, candidates: Sequence[Staff]) -> None:
        self._untried = list(candidates) if len(candidates) > 1 else []
        self._paces: dict[Staff, float] = {}
        self._first = candidates[0]
        self.trials: list[Trial] = []

    @property
    def pace(self) -> float:
        """Pictures per second of the fastest staff so far; 0 where none is known."""
        return max(self._paces.values(), default=0.0)

    def staff(self, pictures: int) -> Staff:
        """Who does the next of so many pictures that are left."""
        if self._untried and pictures >= WORTH_CHOOSING_SECONDS * self.pace:
            return self._untried[0]
        return max(self._paces, key=lambda staff: self._paces[staff], default=self._first)

    def on_trial(self, staff: Staff) -> bool:
        """Whether a staff is only tried."""
        return staff in self._untried

    def tell(self, staff: Staff, pictures_per_second: float) -> None:
        """How fast a staff was."""
        self._paces[staff] = pictures_per_second
        if staff in self._untried:
            self._untried.remove(staff)
            self.trials.append(Trial(staff, pictures_per_second))


def _many(count: int, what: str) -> str:
    plural = "es" if what.endswith("s") else "s"
    return f"{count} {what}{plural if count != 1 else ''}"
