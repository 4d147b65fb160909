"""Parquet: ImageNet as the Hugging Face hub stores it, columns ``image {bytes, path}`` and ``label``, read in place."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import HarnessError
from harness.labels import WORDNET_ID, Label
from harness.sources.base import Found
from harness.sources.storage import files_from_pattern, open_file

BYTES, PATH, LABEL = "image.bytes", "image.path", "label"
EXPECTED = "image: struct<bytes: binary, path: string> and label: int64"


@dataclass(frozen=True, order=True)
class Cell:
    """The picture in one row of a Parquet file.

    Args:
        path: of the file.
        row_group: the part of the file that is read as one.
        row: in the row group.
    """

    path: str
    row_group: int
    row: int

    @property
    def order(self) -> tuple[Any, ...]:
        return (self.path, self.row_group, self.row)

    def read(self) -> bytes:
        """The encoded picture. A row group is read whole and kept until another two were.

        Raises:
            OSError: it cannot be read, or the row holds no picture.
        """
        try:
            data = _pictures(self.path, self.row_group)[self.row].as_py()
        except (HarnessError, pa.ArrowException) as error:
            raise OSError(f"{self.path}, row group {self.row_group}: {error}") from error
        if data is None:
            raise OSError(f"{self.path}, row group {self.row_group}, row {self.row} holds no bytes")
        return bytes(data)


def found_in_parquet(pattern: str) -> Sequence[Found]:
    """One picture per row. Named as ``image.path`` where that tells all rows apart, else by file and row.

    Raises:
        HarnessError: a file is missing, named twice or no Parquet, or has other columns.
    """
    rows = [row for path in files_from_pattern(pattern) for row in _rows(path)]
    if not rows:
        raise HarnessError(f"{pattern} holds no pictures")
    names = Counter(row.name for row in rows)
    if len(names) < len(rows) or "" in names:
        rows = [row._replace(name=_place(row.locator)) for row in rows]
    return rows


def _rows(path: str) -> Iterator[Found]:
    with open_file(path) as file:
        try:
            parquet = pq.ParquetFile(file)
            _check_columns(parquet.schema_arrow, path)
            names = _class_names(parquet.schema_arrow)
            for group in range(parquet.num_row_groups):
                table = parquet.read_row_group(group, columns=[PATH, LABEL])
                paths, labels = table.column("image").combine_chunks().field("path"), table.column(LABEL)
                for row, (name, label) in enumerate(zip(paths.to_pylist(), labels.to_pylist(), strict=True)):
                    yield Found(name or "", Cell(path, group, row), _label(label, names))
        except pa.ArrowException as error:
            raise HarnessError(f"{path} is no whole Parquet file: {error}") from error


def _check_columns(schema: pa.Schema, path: str) -> None:
    image = schema.field("image").type if "image" in schema.names else None
    fields = {field.name for field in image} if image is not None and pa.types.is_struct(image) else set()
    if not {"bytes", "path"} <= fields or LABEL not in schema.names:
        found = ", ".join(f"{field.name}: {field.type}" for field in schema)
        raise HarnessError(f"{path} has the columns {found}; expected {EXPECTED}")


def _class_names(schema: pa.Schema) -> list[str]:
    """The names behind the numbers of the label column, where the file says them."""
    described = (schema.metadata or {}).get(b"huggingface")
    if not described:
        return []
    names: list[str] = json.loads(described).get("info", {}).get("features", {}).get(LABEL, {}).get("names", [])
    return names


def _label(label: Any, names: Sequence[str]) -> Label | None:
    """The number; its name where it is a WordNet id, for those of a subset are numbered anew. Hidden ones are -1."""
    if label is None or label == -1:
        return None
    if isinstance(label, int) and label < len(names) and WORDNET_ID.fullmatch(names[label]):
        return names[label]
    return int(label) if isinstance(label, int) else str(label)


def _place(cell: Any) -> str:
    return f"{os.path.basename(cell.path)}/{cell.row_group}/{cell.row:05}"


@lru_cache(maxsize=2)
def _pictures(path: str, row_group: int) -> Any:
    """The encoded pictures of a row group."""
    with open_file(path) as file:
        table = pq.ParquetFile(file).read_row_group(row_group, columns=[BYTES])
    return table.column("image").combine_chunks().field("bytes")
