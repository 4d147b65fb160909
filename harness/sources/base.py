"""What every source takes and returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from harness.labels import Label

# Endings of the names that are taken for pictures.
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")


class Locator(Protocol):
    """Where the bytes of one encoded picture are. Small, hashable, and sent to other processes."""

    def read(self) -> bytes:
        """The encoded picture.

        Raises:
            OSError: it cannot be read.
        """

    @property
    def order(self) -> tuple[Any, ...]:
        """Sorts the pictures of one source in the order in which they are read fastest."""


class Found(NamedTuple):
    """One picture of a source.

    Args:
        name: unique in the source, with forward slashes.
        locator: where its bytes are.
        label: what the source says of its class: an index among the model's outputs, a name, or nothing.
    """

    name: str
    locator: Locator
    label: Label | None


# The path or pattern that the user gave -> the pictures, in any order that does not change.
FindPictures = Callable[[str], Sequence[Found]]


def is_picture(name: str) -> bool:
    """Whether a file's name is that of a picture."""
    return name.lower().endswith(PICTURES)


def class_folder(name: str) -> str | None:
    """The first folder of a name, which is its class; ``None`` for a name without folders."""
    folder, slash, _ = name.partition("/")
    return folder if slash else None
