"""Folder: pictures in ImageFolder layout, ``CLASS/PICTURE``, or all in one folder."""

from __future__ import annotations

import os
from collections.abc import Sequence

from harness.errors import HarnessError
from harness.sources.base import PICTURES, Found, class_folder, is_picture
from harness.sources.storage import Extent, files_below, joined


def found_in_folder(folder: str) -> Sequence[Found]:
    """Every picture below a folder. Where some are in class folders, those that are not are no part of the set.

    Raises:
        HarnessError: no such folder, or no pictures in it.
    """
    names = [name for name in files_below(folder) if is_picture(name)]
    if not names:
        raise HarnessError(
            f"{folder} holds no pictures; expected {os.path.basename(folder)}/CLASS/PICTURE with one of "
            f"{', '.join(PICTURES)}, a .csv, or names of .tar or .parquet files ({folder}/*.tar)"
        )
    found = [Found(text_from_name(name), Extent(joined(folder, name)), class_folder(name)) for name in names]
    in_classes = [each for each in found if each.label is not None]
    return in_classes or found


def text_from_name(name: str) -> str:
    """A file's name as text; bytes that are no UTF-8 are written as escapes."""
    return os.fsencode(name).decode(errors="backslashreplace")
