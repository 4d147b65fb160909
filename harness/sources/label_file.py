"""A file of labels for pictures that were found without: one folder of all pictures, as ILSVRC2012 is distributed.

Four forms are known, and told apart by what they hold:

- one label per line, in the order of the pictures' names (TensorFlow's ``imagenet_2012_validation_synset_labels.txt``);
- ``NAME LABEL`` per line (Caffe's ``val.txt``);
- a table with a header (Kaggle's ``LOC_val_solution.csv``);
- the devkit's ``ILSVRC2012_validation_ground_truth.txt``: one number from 1 to 1000 per line. These are ILSVRC2012
  ids, in another order than the sorted WordNet ids that models are trained on, so the devkit's ``meta.mat`` must lie
  beside it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from harness.errors import HarnessError
from harness.labels import IMAGENET_CLASSES, Label
from harness.sources.base import Found
from harness.sources.csv_file import label_from_text, pairs_from_table
from harness.sources.storage import joined, open_file, parent, read_text

GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"


def labelled(found: Sequence[Found], path: str) -> list[Found]:
    """The pictures with the labels of a file; what they were labelled before does not count.

    Raises:
        HarnessError: the file does not have a label for every picture.
    """
    text = read_text(path)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise HarnessError(f"{path} is empty; expected a label for every picture")
    if path.lower().endswith((".csv", ".tsv")):
        return _by_name(found, dict(pairs_from_table(text, path)), path)
    if all(len(line.split()) == 1 for line in lines):
        return _by_order(found, lines, path)
    pairs = [line.split(maxsplit=1) for line in lines]
    short = next((number for number, pair in enumerate(pairs, 1) if len(pair) < 2), None)
    if short is not None:
        raise HarnessError(f"{path}, entry {short}: expected NAME LABEL as in the others, got {lines[short - 1]!r}")
    return _by_name(found, {name: label_from_text(label) for name, label in pairs}, path)


def _by_order(found: Sequence[Found], lines: Sequence[str], path: str) -> list[Found]:
    if len(lines) != len(found):
        raise HarnessError(
            f"{path} has {len(lines)} labels in the order of the pictures, but there are {len(found)} pictures; for a "
            f"part of a set give a file with NAME LABEL in every line"
        )
    labels = [label_from_text(line) for line in lines]
    if PurePosixPath(path).name == GROUND_TRUTH:
        wordnet_ids = _wordnet_ids(joined(parent(path), "meta.mat"))
        labels = [wordnet_ids[label] for label in labels]
    ordered = sorted(found, key=lambda each: each.name)
    return [each._replace(label=label) for each, label in zip(ordered, labels, strict=True)]


def _by_name(found: Sequence[Found], labels: Mapping[str, Label], path: str) -> list[Found]:
    """Matches whole names, else names without folders, else these without their ending, as Kaggle writes them."""
    return [each._replace(label=_label_of(each.name, labels, path)) for each in found]


def _label_of(name: str, labels: Mapping[str, Label], path: str) -> Label:
    pure = PurePosixPath(name)
    for candidate in (name, pure.name, pure.stem):
        if candidate in labels:
            return labels[candidate]
    raise HarnessError(f"{path} has no label for {name}; its first name is {next(iter(labels))}")


def _wordnet_ids(path: str) -> dict[Label, Label]:
    """ILSVRC2012 id -> WordNet id, from the devkit's list of synsets. Needs SciPy, which reads MATLAB's format."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise HarnessError(
            f"{GROUND_TRUTH} numbers the classes as {path} does, and reading that needs SciPy; pip install scipy"
        ) from error
    with open_file(path) as file:
        synsets = loadmat(io.BytesIO(file.read()), squeeze_me=True)["synsets"]
    ids = {int(each["ILSVRC2012_ID"]): str(each["WNID"]) for each in synsets}
    return {number: name for number, name in ids.items() if number <= IMAGENET_CLASSES}
