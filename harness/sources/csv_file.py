"""A table of pictures and labels: a source of its own, and one form of `harness.sources.label_file`."""

from __future__ import annotations

import csv
from collections.abc import Sequence

from harness.errors import HarnessError
from harness.labels import WORDNET_ID, Label
from harness.sources.base import Found
from harness.sources.storage import Extent, joined, parent, read_text

# What the two columns may be called, in lower case.
PATH = ("path", "file", "filename", "file_name", "image", "image_path", "imageid", "name")
LABEL = ("label", "class", "label_id", "target", "wnid", "synset", "predictionstring")


def found_in_csv(path: str) -> Sequence[Found]:
    """The pictures that a table names, by paths relative to the table's own folder or by URLs.

    Raises:
        HarnessError: no such file, no columns of paths and labels, or a line without both.
    """
    pairs = pairs_from_table(read_text(path), path)
    folder = parent(path)
    return [Found(name, Extent(joined(folder, name)), label) for name, label in pairs]


def pairs_from_table(text: str, where: str) -> list[tuple[str, Label]]:
    """The columns of paths and labels of a table with a header; other columns are left alone.

    Raises:
        HarnessError: no such columns, or a line without both.
    """
    lines = text.splitlines()
    dialect = csv.excel_tab if lines and "\t" in lines[0] else csv.excel
    rows = csv.reader(lines, dialect)
    header = [name.strip().lower() for name in next(rows, [])]
    path, label = _column(header, PATH, where), _column(header, LABEL, where)
    pairs = []
    for row in rows:
        if not row:
            continue
        if len(row) <= max(path, label) or not row[path].strip() or not row[label].strip():
            raise HarnessError(f"{where}, line {rows.line_num}: expected a path and a label, got {','.join(row)!r}")
        pairs.append((row[path].strip(), label_from_text(row[label])))
    return pairs


def label_from_text(text: str) -> Label:
    """A label as a number where it is one. Behind a WordNet id Kaggle's tables list boxes, which are left out."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return int(text)
    first = text.split()[0]
    return first if WORDNET_ID.fullmatch(first) else text


def _column(header: Sequence[str], names: Sequence[str], where: str) -> int:
    for name in names:
        if name in header:
            return header.index(name)
    raise HarnessError(
        f"{where} has no column {names[0]!r}; its first line must name the columns path and label, and is "
        f"{','.join(header)!r}"
    )
