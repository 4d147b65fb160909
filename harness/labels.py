"""Labels: what a data set says of a picture's class becomes an index among the model's outputs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib.resources import files

from engines.artifact import Artifact
from harness.errors import HarnessError

IMAGENET_CLASSES = 1000
WORDNET_ID = re.compile(r"n\d{8}")

# What a data set says of a picture's class: an index among the model's outputs, or a name.
Label = int | str


def indices_from_labels(labels: Iterable[Label], artifact: Artifact, where: str) -> dict[Label, int]:
    """Label -> index among the model's outputs. A number is that index already, counted from 0.

    Args:
        where: the source of the labels, for messages.

    Raises:
        HarnessError: a number that is none of the model's outputs, names that are not its classes, or both kinds.
    """
    distinct = sorted(set(labels), key=str)
    numbers = [label for label in distinct if isinstance(label, int)]
    names = [label for label in distinct if isinstance(label, str)]
    if numbers and names:
        raise HarnessError(f"{where} labels some pictures by number ({numbers[0]}) and some by name ({names[0]!r})")
    if numbers:
        count = artifact.class_count
        wrong = [number for number in numbers if not 0 <= number < count]
        if wrong:
            hint = "; it seems to count from 1, and a label counts from 0" if wrong == [count] else ""
            raise HarnessError(
                f"{where} has the label {wrong[0]}, but {artifact.path.name} has the outputs 0 to {count - 1}{hint}"
            )
        return {number: number for number in numbers}
    return {name: index for name, index in labels_from_names(names, artifact, where).items()}  # noqa: C416 - wider keys


def labels_from_names(names: Sequence[str], artifact: Artifact, where: str) -> dict[str, int]:
    """Name of a class -> index among the model's outputs.

    By name where the artifact declares its classes; through ImageNet's list where all are WordNet ids and the model
    has its 1,000 classes; else by sorted order, if there are exactly as many as the model has.

    Args:
        where: the source of the names, for messages.

    Raises:
        HarnessError: the names are not the model's classes.
    """
    count = artifact.class_count
    if artifact.classes is not None:
        return _indices_in(names, artifact.classes, where, f"the classes that {artifact.path.name} declares")
    if count == IMAGENET_CLASSES and all(WORDNET_ID.fullmatch(name) for name in names):
        return _indices_in(names, imagenet_wordnet_ids(), where, "the 1,000 classes of ImageNet-1k")
    if len(names) != count:
        raise HarnessError(
            f"{where} has {len(names)} classes, but {artifact.path.name} has {count}; list the model's classes in "
            f'their order in its sidecar under "classes"'
        )
    return {name: index for index, name in enumerate(sorted(names))}


def imagenet_wordnet_ids() -> tuple[str, ...]:
    """The WordNet ids of ImageNet-1k in the order of the classes."""
    return tuple((files("harness") / "data" / "imagenet_wordnet_ids.txt").read_text().split())


def _indices_in(names: Sequence[str], classes: Sequence[str], where: str, what: str) -> dict[str, int]:
    index = {name: position for position, name in enumerate(classes)}
    strangers = [name for name in names if name not in index]
    if strangers:
        raise HarnessError(
            f"{where}: {len(strangers)} of {len(names)} classes are not among {what}, the first is {strangers[0]!r}; "
            f"leave their pictures out"
        )
    return {name: index[name] for name in names}
