"""Manifest: which files a folder of corrupted pictures holds, one line of JSON for each picture.

The first line is what all files depend on. A picture's line is appended when all its files are in place, so a run
that is killed leaves nothing that has to be trusted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from harness.errors import HarnessError
from harness.store import FULL, Store, is_full

MANIFEST = "manifest.jsonl"
MANIFEST_VERSION = 1

Entry = dict[str, Any]  # a line of the manifest


class Manifest:
    """The manifest of a folder. A picture's last line counts; memory holds where it begins, not the line."""

    def __init__(self, store: Store, header: Entry) -> None:
        self.path = store.folder / MANIFEST
        self._starts: dict[str, int] = {}
        self._sorted = True
        if self.path.exists():
            self._read(header)
        else:
            store.write_text(MANIFEST, json.dumps(header) + "\n")

    def entry(self, picture: str) -> Entry | None:
        """The line of a picture, or ``None``."""
        if picture not in self._starts:
            return None
        with self.path.open("rb") as file:
            file.seek(self._starts[picture])
            return _entry(file.readline())

    def append(self, entry: Entry) -> None:
        """Add a line. A line that a full disk or a kill cuts off is dropped by the next reader."""
        self._note(entry["picture"], self.path.stat().st_size)
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def sort(self) -> None:
        """One line for each picture, in the order of their ids, where it is otherwise."""
        if self._sorted:
            return
        with whole_file(self.path) as new, self.path.open("rb") as old:
            new.write(old.readline())
            for picture in sorted(self._starts):
                old.seek(self._starts[picture])
                new.write(old.readline())

    def _read(self, header: Entry) -> None:
        """Learn where lines begin. Behind the first line that is not whole nothing is kept."""
        with self.path.open("r+b") as file:
            first = file.readline()
            self._check(_entry(first), header)
            start = len(first)
            for line in file:
                entry = _entry(line)
                if entry is None:
                    break
                self._note(entry["picture"], start)
                start += len(line)
            file.truncate(start)

    def _note(self, picture: str, start: int) -> None:
        self._sorted &= not self._starts or picture > next(reversed(self._starts))
        self._starts[picture] = start

    def _check(self, there: Entry | None, here: Entry) -> None:
        if there is None or there.get("manifest") != MANIFEST_VERSION:
            raise HarnessError(f"{self.path} is no manifest of this qharness; choose another folder with -o")
        old, new = dict(_leaves(there)), dict(_leaves(here))
        for name in {**old, **new}:
            if old.get(name) != new.get(name):
                raise HarnessError(
                    f"{self.path.parent} holds pictures that differ in {name} (there {old.get(name, 'nothing')}, now "
                    f"{new.get(name, 'nothing')}); choose another folder with -o, or delete this one"
                )


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file that is there under its name only when all of it was written; folders are made.

    Raises:
        HarnessError: the disk is full.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            yield file
        unfinished.replace(path)
    except OSError as error:
        if is_full(error):
            raise HarnessError(f"{FULL} (writing {path})") from error
        raise
    finally:
        unfinished.unlink(missing_ok=True)


def _entry(line: bytes) -> Entry | None:
    """A line as it was appended, or ``None`` where it is not whole."""
    try:
        entry = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def _leaves(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """The values of nested objects as (path, JSON)."""
    if not isinstance(value, dict):
        yield where, json.dumps(value)
        return
    for key, each in value.items():
        yield from _leaves(each, f"{where}.{key}" if where else key)
