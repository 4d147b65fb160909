"""Merge: the shards of a run become the run, if none is missing, none is double and all belong together."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from harness.extent import SHARD
from harness.report.build import Report, report_from_store
from harness.report.write import write_reports
from harness.slices import pictures_per_part
from harness.store import Store, first_difference, part_name

SHOWN = 5  # of a list that may be long


def merge(shards: Sequence[Path], folder: Path) -> Report:
    """Join runs of shards into a new run.

    Args:
        shards: folders of runs with ``--shard``.
        folder: of the run to be made.

    Raises:
        HarnessError: a shard is another run's, a part is missing or double, or rows are; the message says which.
    """
    stores = [Store(shard) for shard in shards]
    headers = [store.read_json("run.json") for store in stores]
    for store, header in zip(stores, headers, strict=True):
        difference = first_difference(headers[0]["identity"], header["identity"])
        if difference:
            raise HarnessError(
                f"{stores[0].folder} and {store.folder} are not of one run: they differ in {difference}; give all "
                f"machines the same recipe, the same data and, with --calibration FILE, the same ranges"
            )
    identity = headers[0]["identity"]
    parts = _parts(stores, identity)
    merged = Store(folder)
    merged.create()
    with merged.locked():
        if merged.claimed:
            raise HarnessError(f"{folder} holds a run already; choose another folder with -o")
        _copy(stores[0], parts, merged)
        _prove_complete(merged, identity)
        merged.claim(identity)
        report = report_from_store(merged)
        write_reports(report, merged)
    return report


def _parts(stores: Sequence[Store], identity: dict[str, Any]) -> list[Path]:
    """Every part of the run, each from the one shard that has it."""
    found: dict[str, Path] = {}
    for store in stores:
        damaged = store.damaged_parts()
        if damaged:
            raise HarnessError(f"{damaged[0]} is damaged; repeat that shard's command, which measures it again")
        for part in store.parts():
            if part.name in found:
                raise HarnessError(
                    f"part {part.name} is double: in {found[part.name].parent.parent} and {store.folder}"
                )
            found[part.name] = part
    pictures = identity["data"]["pictures"]
    engines = dict.fromkeys(name.rpartition(":")[0] for name in identity["conditions"][0]["cells"])
    distinct = {tuple(each["cells"].values()) for each in identity["conditions"]}
    count = -(-pictures // pictures_per_part(pictures, len(distinct)))
    wanted = {part_name(index, engine): index for index in range(count) for engine in engines}
    missing = {name: index for name, index in wanted.items() if name not in found}
    if missing:
        of = _shards(stores)
        owners = sorted({index % of + 1 for index in missing.values()})
        raise HarnessError(
            f"{len(missing)} of {len(wanted)} parts are missing, the first is {next(iter(missing))}; finish or name "
            f"shard {', '.join(f'{owner}/{of}' for owner in owners[:SHOWN])}{' ...' if len(owners) > SHOWN else ''}"
        )
    return [found[name] for name in sorted(found)]


def _shards(stores: Sequence[Store]) -> int:
    """Of how many shards the run is made."""
    texts = [store.read_json(SHARD)["shard"] for store in stores if store.has(SHARD)]
    return int(texts[0].partition("/")[2]) if texts else 1


def _copy(source: Store, parts: Sequence[Path], target: Store) -> None:
    """What shards share, and the parts of all of them."""
    shutil.copy2(source.recipe_path, target.recipe_path)
    target.write_json("prepared.json", source.read_json("prepared.json"))
    if source.artifacts.is_dir():
        shutil.copytree(source.artifacts, target.artifacts, dirs_exist_ok=True)
    (target.folder / "parts").mkdir(exist_ok=True)
    for part in parts:
        shutil.copy2(part, target.folder / "parts" / part.name)


def _prove_complete(store: Store, identity: dict[str, Any]) -> None:
    """Every picture once in every cell."""
    cells = {key for condition in identity["conditions"] for key in condition["cells"].values()}
    wanted = len(cells) * identity["data"]["pictures"]
    rows, distinct = store.query("select count(*), count(distinct (cell, sample)) from records")[0]
    if not rows == distinct == wanted:
        raise HarnessError(
            f"{store.folder} should have {wanted:,} rows, one per cell and picture; it has {rows:,}, of which "
            f"{distinct:,} are distinct; measure the shards again"
        )
