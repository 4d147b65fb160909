"""Tar: files inside tar files are read where they stand, at their offsets; nothing is unpacked.

Labelled as WebDataset does, by a member of the same key that ends in ``.cls`` (the label as text) or ``.json`` (under
``label``); else by class folders inside the tar, or by ``--labels``. A key is a name up to the first dot behind its
last slash. https://github.com/webdataset/webdataset
"""

from __future__ import annotations

import json
import os
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.errors import HarnessError
from harness.labels import Label
from harness.sources.base import Found, class_folder, is_picture
from harness.sources.csv_file import label_from_text
from harness.sources.folder import text_from_name
from harness.sources.storage import Extent, files_from_pattern, open_file

LABEL_ENDINGS = (".cls", ".json")


@dataclass(frozen=True)
class _Shard:
    """The pictures of one tar file by name, and the labels of their keys."""

    path: str
    pictures: dict[str, Extent]
    labels: dict[str, Label]

    @property
    def places(self) -> frozenset[tuple[str, int, int]]:
        """What is where; equal for a tar file and its copy."""
        return frozenset((name, extent.offset, extent.length) for name, extent in self.pictures.items())

    def label(self, name: str) -> Label | None:
        return self.labels.get(_key(name), class_folder(name))


def found_in_tars(pattern: str) -> Sequence[Found]:
    """The pictures of all shards. A name that several shards have is preceded by its shard's, and so are then all.

    Raises:
        HarnessError: a shard is missing, cut off, named twice or a copy of another, or none holds a picture.
    """
    shards = [_read(path) for path in files_from_pattern(pattern)]
    _check_copies(shards)
    names = Counter(name for shard in shards for name in shard.pictures)
    if not names:
        raise HarnessError(f"{pattern} holds no pictures")
    double = names.most_common(1)[0][1] > 1
    return [
        Found(f"{os.path.basename(shard.path)}/{name}" if double else name, extent, shard.label(name))
        for shard in shards
        for name, extent in shard.pictures.items()
    ]


def _read(path: str) -> _Shard:
    shard = _Shard(path, {}, {})
    with open_file(path) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as tar:
                for member in _files(tar, path):
                    _add(shard, tar, member)
        except tarfile.TarError as error:
            raise HarnessError(
                f"{path} is no whole, uncompressed tar file ({error}); copy or unzip it again"
            ) from error
    return shard


def _files(tar: tarfile.TarFile, path: str) -> Iterator[tarfile.TarInfo]:
    for member in tar:
        if member.issparse():
            raise HarnessError(
                f"{path}: {member.name} is stored as a sparse file, which has no one place; pack it again"
            )
        if member.isreg():
            yield member


def _add(shard: _Shard, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    name = text_from_name(member.name.removeprefix("./"))
    if is_picture(name):
        if name in shard.pictures:
            raise HarnessError(f"{shard.path} holds {name} twice; pack it again")
        shard.pictures[name] = Extent(shard.path, member.offset_data, member.size)
        return
    ending = os.path.splitext(name)[1].lower()
    content = tar.extractfile(member) if ending in LABEL_ENDINGS else None
    if content is None:
        return
    label = _label(content.read(), ending, f"{shard.path}: {name}")
    if label is not None and (ending == ".cls" or _key(name) not in shard.labels):
        shard.labels[_key(name)] = label


def _label(data: bytes, ending: str, where: str) -> Label | None:
    """What a member says of its key's class; nothing, where a ``.json`` does not speak of it."""
    try:
        if ending == ".cls":
            return label_from_text(data.decode())
        table = json.loads(data)
    except (ValueError, IndexError) as error:
        raise HarnessError(f"{where} holds no label: {error}") from error
    label = table.get("label") if isinstance(table, dict) else None
    return label if isinstance(label, int | str) else None


def _check_copies(shards: Sequence[_Shard]) -> None:
    seen: dict[frozenset[tuple[str, int, int]], _Shard] = {}
    for shard in shards:
        other = seen.setdefault(shard.places, shard)
        if other is not shard and all(
            extent.read() == other.pictures[name].read() for name, extent in shard.pictures.items()
        ):
            raise HarnessError(f"{shard.path} is a copy of {other.path}: the same pictures; leave one out")


def _key(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.partition('.')[0]}"
