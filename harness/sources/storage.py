"""Storage: files on this machine's disks, and files behind a URL that fsspec understands.

A path is a plain string, a URL where it holds ``://``. fsspec is imported only for URLs.
"""

from __future__ import annotations

import errno
import glob
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import PurePosixPath
from typing import IO, Any

from harness.errors import HarnessError

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_BRACES = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, order=True)
class Extent:
    """Consecutive bytes of a file.

    Args:
        path: of the file.
        offset: of the first byte.
        length: in bytes; -1 reaches to the end of the file.
    """

    path: str
    offset: int = 0
    length: int = -1

    @property
    def order(self) -> tuple[Any, ...]:
        return (self.path, self.offset)

    def read(self) -> bytes:
        """The bytes.

        Raises:
            OSError: they cannot be read, or there are fewer.
        """
        data = _remote_bytes(self) if is_url(self.path) else _local_bytes(self)
        if self.length >= 0 and len(data) != self.length:
            raise OSError(f"{self.path} ends behind {len(data)} of {self.length} bytes at {self.offset}")
        return data


def is_url(path: str) -> bool:
    """Whether a path is one for fsspec, such as ``s3://bucket/val`` or ``simplecache::https://host/val.tar``."""
    return "://" in path


def joined(folder: str, name: str) -> str:
    """The path of a name below a folder; an absolute name, or a URL, stands for itself."""
    if is_url(name) or name.startswith("/"):
        return name
    return f"{folder.rstrip('/')}/{name}" if folder else name


def parent(path: str) -> str:
    """The folder that holds a path."""
    return path.rpartition("/")[0] if is_url(path) else os.path.dirname(path)


def identity(path: str) -> str:
    """Equal for two names of one file, as far as can be told: links of this machine's disks are followed."""
    return path if is_url(path) else os.path.realpath(path)


def open_file(path: str) -> IO[bytes]:
    """A file to read and to seek in.

    Raises:
        HarnessError: there is no such file, or it cannot be opened.
    """
    try:
        if not is_url(path):
            return open(path, "rb")
        with _back_end(path) as (system, inside):
            opened: IO[bytes] = system.open(inside, "rb")
    except OSError as error:
        raise HarnessError(f"{path} cannot be opened: {error.strerror or error}") from error
    return opened


def read_text(path: str) -> str:
    """A small file of text in UTF-8, with or without a byte order mark.

    Raises:
        HarnessError: there is no such file, or it is no text.
    """
    with open_file(path) as file:
        try:
            return file.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise HarnessError(f"{path} is not text in UTF-8: {error}") from error


def files_below(folder: str) -> Iterator[str]:
    """The names of all files below a folder, with forward slashes, sorted; hidden folders are left out.

    Raises:
        HarnessError: there is no such folder.
    """
    names = _remote_names(folder) if is_url(folder) else _local_names(folder)
    return iter(sorted(name for name in names if not name.startswith(".")))


def files_from_pattern(pattern: str) -> list[str]:
    """The files that a pattern stands for: ``val-{000..012}.tar``, ``{train,val}.tar``, ``shards/*.tar``, or one name.

    Raises:
        HarnessError: a file is missing, nothing fits, or a file is named twice.
    """
    paths = [path for each in _from_braces(pattern) for path in _from_stars(each)]
    seen: dict[str, str] = {}
    for path in paths:
        other = seen.setdefault(identity(path), path)
        if other is not path:
            raise HarnessError(f"{pattern} names {path} twice (the first time as {other}); name every file once")
    return paths


def _from_braces(pattern: str) -> list[str]:
    """Every choice of every pair of braces; ``{08..11}`` counts with leading zeros, as a shell does."""
    pieces, choices, end = [], [], 0
    for found in _BRACES.finditer(pattern):
        pieces.append(pattern[end : found.start()])
        choices.append(_choices(found.group(0), found.group(1)))
        end = found.end()
    return ["".join(map("".join, zip(pieces, chosen, strict=True))) + pattern[end:] for chosen in product(*choices)]


def _choices(braces: str, inside: str) -> list[str]:
    span = _RANGE.fullmatch(braces)
    if not span:
        return inside.split(",")
    first, last = span.groups()
    return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]


def _from_stars(pattern: str) -> list[str]:
    if not any(star in pattern for star in "*?["):
        open_file(pattern).close()
        return [pattern]
    found = _remote_glob(pattern) if is_url(pattern) else sorted(glob.glob(pattern))
    if not found:
        raise HarnessError(f"no file fits {pattern}")
    return found


def _local_bytes(extent: Extent) -> bytes:
    with open(extent.path, "rb") as file:
        if extent.offset:
            file.seek(extent.offset)
        return file.read(extent.length)


def _local_names(folder: str) -> Iterator[str]:
    if os.path.isfile(folder):
        raise HarnessError(f"{folder} is a file; expected a folder, or one that ends in .csv, .tsv, .tar or .parquet")
    if not os.path.isdir(folder):
        raise HarnessError(f"there is no data folder {folder}")
    for entry in os.scandir(folder):
        if entry.is_file():
            yield entry.name
        elif entry.is_dir() and not entry.name.startswith("."):  # a class folder may be a link
            for home, _, names in os.walk(entry.path):
                below = os.path.relpath(home, folder)
                yield from (f"{below}/{name}" for name in names)


def _remote_bytes(extent: Extent) -> bytes:
    end = None if extent.length < 0 else extent.offset + extent.length
    with _back_end(extent.path) as (system, inside):
        data: bytes = system.cat_file(inside, start=extent.offset, end=end)
    return data


def _remote_names(folder: str) -> Iterator[str]:
    try:
        with _back_end(folder) as (system, inside):
            found = [PurePosixPath(path) for path in system.find(inside)]
    except OSError as error:
        raise HarnessError(f"{folder} cannot be listed: {error.strerror or error}") from error
    if not found:
        raise HarnessError(f"there is nothing below {folder}")
    root = PurePosixPath(inside.rstrip("/"))
    return (path.relative_to(root).as_posix() for path in found)


def _remote_glob(pattern: str) -> list[str]:
    chain, chained, _ = pattern.rpartition("::")
    try:
        with _back_end(pattern) as (system, inside):
            found = sorted(system.unstrip_protocol(path) for path in system.glob(inside))
    except OSError as error:
        raise HarnessError(f"{pattern} cannot be listed: {error.strerror or error}") from error
    return [f"{chain}::{path}" if chained else path for path in found]


@contextmanager
def _back_end(path: str) -> Iterator[tuple[Any, str]]:
    """The file system of fsspec for a URL, and the path inside it.

    Raises:
        HarnessError: fsspec or its back end for this kind of URL is missing, or there is no such kind.
        OSError: whatever fails inside; every back end has exceptions of its own.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise HarnessError(f"{path} is a URL, which needs fsspec; pip install 'qharness[remote]'") from error
    try:
        opened = url_to_fs(path)
    except (ImportError, ValueError) as error:
        raise HarnessError(f"{path}: {error}") from error
    try:
        yield opened
    except OSError:
        raise
    except Exception as error:
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}", path) from error
