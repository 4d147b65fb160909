"""The one error of this floor, and how a message suggests the nearest name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HarnessError(Exception):
    """Something that the user can mend; the command line prints the message alone and exits with 2."""


class NothingToMeasure(HarnessError):
    """All is well, but there is nothing to do; the command line says so and exits with 0."""


def unknown(what: str, got: str, known: Iterable[str]) -> HarnessError:
    """The error for a name that is not in a table: what was got, the nearest name, all names.

    >>> str(unknown("noise", "gausian", ["clean", "gaussian"]))
    "there is no noise 'gausian'; did you mean 'gaussian'? Known: clean, gaussian"
    """
    names = sorted(known)
    near = difflib.get_close_matches(got, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return HarnessError(f"there is no {what} {got!r}{hint} Known: {', '.join(names)}")
