"""Sources: where pictures and their labels come from.

A source reads the names of its pictures, never the pictures, and says of each where its bytes are (`Found`). A new
source is one new file and one row here. ``--data`` chooses the first row one of whose endings it has.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["SOURCES", "Row"]


class Row(NamedTuple):
    """One row.

    Args:
        target: ``module:function``, a `harness.sources.base.FindPictures`.
        about: one line for the user.
        endings: of the path that the user gives, in lower case; none for what nothing else reads.
        extra: the extra of qharness that installs what the module imports.
    """

    target: str
    about: str
    endings: tuple[str, ...]
    extra: str | None = None


SOURCES = {
    "csv": Row("harness.sources.csv_file:found_in_csv", "a table of path and label", (".csv", ".tsv")),
    "tar": Row("harness.sources.tar:found_in_tars", "tar files and WebDataset shards, read in place", (".tar",)),
    "parquet": Row(
        "harness.sources.parquet:found_in_parquet", "Parquet as on the Hugging Face hub, read in place", (".parquet",)
    ),
    "folder": Row("harness.sources.folder:found_in_folder", "a folder with one folder per class, or with --labels", ()),
}
