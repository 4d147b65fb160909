"""Extent: how much of a run is measured here. A shard measures every n-th part, in a folder of its own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from harness.errors import HarnessError
from harness.quantities import Grid
from harness.store import Store
from harness.until import StoppingRule, UntilGate, rules_difference, stored_rules

SHARD = "shard.json"


@dataclass(frozen=True)
class Shard:
    """One of several machines that share a run.

    Args:
        number: from 1 to ``of``.
        of: how many there are.
    """

    number: int = 1
    of: int = 1

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def owns(self, part: int) -> bool:
        """Whether a part of the whole run is measured here. Neighbours go to different shards, so all take as long."""
        return part % self.of == self.number - 1

    def describe(self) -> dict[str, Any]:
        """As JSON."""
        return {"shard": str(self)}


WHOLE = Shard()


@dataclass(frozen=True)
class Extent:
    """How much of a run is measured, and where.

    Args:
        until: the rule that may end it; ``None`` measures everything.
        shard: the parts that are measured here.
        ray: address of a Ray cluster that measures them, "local" for one on this machine; "" for none.
    """

    until: StoppingRule | None = None
    shard: Shard = WHOLE
    ray: str = ""

    def __post_init__(self) -> None:
        if self.ray and (self.until or self.shard.of > 1):
            raise HarnessError("--ray measures all parts, in any order; leave --until and --shard out")
        if self.until and self.shard.of > 1:
            raise HarnessError("--until needs all pictures in order, and a shard has only some; leave one of them out")

    def check(self, grid: Grid) -> None:
        """See that the rule that may end the run is about what the run measures.

        Raises:
            HarnessError: it is not.
        """
        if self.until:
            self.until.check(grid)

    def other_rules(self, store: Store) -> str:
        """Where the rules of ``--until gate`` differ from those that the folder was begun with; "" nowhere."""
        stored = stored_rules(store)
        return rules_difference(stored, self.until.rules) if stored and isinstance(self.until, UntilGate) else ""

    def claim(self, store: Store) -> None:
        """See that the folder holds this shard and no other.

        Raises:
            HarnessError: it holds another shard, or the whole run.
        """
        if store.claimed:
            there = store.read_json(SHARD)["shard"] if store.has(SHARD) else str(Shard())
            if there != str(self.shard):
                raise HarnessError(
                    f"{store.folder} holds shard {there} of a run, and this is {self.shard}; choose another folder "
                    f"with -o"
                )
        elif self.shard.of > 1:
            store.write_json(SHARD, self.shard.describe())
        else:
            store.remove(SHARD)  # of a shard that did not get far enough to claim the folder


def shard_from_text(text: str) -> Shard:
    """Read ``2/8``.

    Raises:
        HarnessError: it is no such fraction.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise HarnessError(f"expected a shard such as 2/8, the second of eight; got {text!r}")
    return Shard(int(found[1]), int(found[2]))
