"""Shadow: see that `noise`, `engines`, ... are this project's, not strangers of the same name.

The public index has a distribution called ``noise``. Installed beside this project it may be imported first.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

PACKAGES = ("harness", "exporters", "engines", "noise", "benchmarks")


def check_one_home(packages: tuple[str, ...] = PACKAGES) -> str | None:
    """A message for the user if the packages do not all lie in one folder, else ``None``."""
    homes = {name: _home(name) for name in packages}
    home = homes["harness"]
    strangers = {name: place for name, place in homes.items() if place != home}
    if not strangers:
        return None
    name, place = next(iter(strangers.items()))
    return (
        f"qharness lies in {home}, but Python would import {name!r} from {place or 'nowhere'}: another "
        f"distribution with that name shadows it. Run 'pip uninstall {name}', or use a fresh virtual environment"
    )


def _home(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    if spec is None:
        return None
    places = list(spec.submodule_search_locations or [spec.origin or ""])
    return Path(places[0]).resolve().parent
