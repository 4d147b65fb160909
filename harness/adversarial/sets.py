"""Adversarial sets: attacked pictures in a folder, laid out as the data set is, with a manifest that says whose.

::

    SET/CLASS/FILE.png    8-bit pictures at the size of the model's input; lossless
    SET/manifest.jsonl    what all pictures depend on; then one line for each, behind its file

A set is made once, for one model, by one attack, and may be given to any engine whose input has that size.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.artifact import Artifact
from harness.conditions import Condition, without_second_resize
from harness.errors import HarnessError
from harness.manifest import MANIFEST, MANIFEST_VERSION, Entry
from harness.samples import Sample
from noise.base import Pipeline

ADVERSARIAL = "adversarial"


@dataclass(frozen=True)
class AdversarialSet:
    """A stored set.

    Args:
        folder: where it is.
        made: how, as JSON: source, attack, budget, seed, size, classes.
        entries: picture -> its line of the manifest.
    """

    folder: Path
    made: Mapping[str, Any]
    entries: Mapping[str, Entry]

    @property
    def name(self) -> str:
        """Of the folder, which is that of the condition too."""
        return self.folder.name

    @property
    def key(self) -> str:
        """16 hexadecimal digits over what is in the set."""
        lines = {name: entry.get("sha256", "") for name, entry in sorted(self.entries.items())}
        text = json.dumps([self.made, lines], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def check(self, artifact: Artifact, samples: Sequence[Sample]) -> None:
        """See that the set says something of a model and of these pictures.

        Raises:
            HarnessError: another size of input, another number or list of classes, pictures that it lacks, or one that
                is not what was stored or was attacked for another class.
        """
        theirs, ours = self.made["size"], list(artifact.size)
        if theirs != ours:
            raise HarnessError(
                f"the adversarial set {self.name} has pictures of {theirs[0]} x {theirs[1]} pixels, and "
                f"{artifact.path.name} takes {ours[0]} x {ours[1]}: a resize would undo the attack. Attack a model of "
                f"that size"
            )
        if self.made["classes"] != artifact.class_count:
            raise HarnessError(
                f"the adversarial set {self.name} was made for {self.made['classes']} classes, and "
                f"{artifact.path.name} has {artifact.class_count}; attack a model with the same classes"
            )
        names = self.made["class_names"]
        if names and artifact.classes and names != list(artifact.classes):
            raise HarnessError(
                f"the adversarial set {self.name} was made for classes in another order than those of "
                f"{artifact.path.name}; attack a model with the same list"
            )
        absent = [sample.id for sample in samples if sample.id not in self.entries]
        if absent:
            raise HarnessError(
                f"the adversarial set {self.name} lacks {len(absent)} of the {len(samples)} scored pictures, the first "
                f"is {absent[0]}; score what it has, with its --limit and --seed {self.made['seed']}, or attack the "
                f"rest by the same command with a higher --limit"
            )
        for sample in samples:
            self._check_picture(sample)

    def _check_picture(self, sample: Sample) -> None:
        """See that a picture is the stored one, and was attacked for the class that it is scored for."""
        entry = self.entries[sample.id]
        if entry["label"] != sample.label:
            raise HarnessError(
                f"the adversarial set {self.name} has {sample.id} attacked as class {entry['label']}, and it is scored "
                f"as class {sample.label}: the labels have changed. Delete {self.folder} and attack again"
            )
        if "file" not in entry:
            return  # it failed when it was attacked, which is a counted row
        path = self.folder / entry["file"]
        try:
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise HarnessError(f"{path} cannot be read ({error}); attack again, which makes what is missing") from error
        if found != entry["sha256"]:
            raise HarnessError(
                f"{path} is not the picture that was stored: its SHA-256 is {found[:16]}..., and the {MANIFEST} says "
                f"{entry['sha256'][:16]}...; attack again, which makes what is damaged"
            )


def set_from_folder(folder: Path) -> AdversarialSet:
    """Read a set; one that was not finished has fewer pictures, see `AdversarialSet.check`.

    Raises:
        HarnessError: the folder holds none, or its manifest is damaged.
    """
    path = folder / MANIFEST
    try:
        lines = path.read_text().splitlines()
        header, *entries = [json.loads(line) for line in lines]
        made = header[ADVERSARIAL]
        if header["manifest"] != MANIFEST_VERSION:
            raise KeyError("manifest")
        return AdversarialSet(folder, made, {entry["picture"]: entry for entry in entries})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HarnessError(
            f"{folder} is no whole adversarial set: expected a {MANIFEST} as qharness attack writes it ({error!r})"
        ) from error


def sets_from_folder(folder: Path) -> list[AdversarialSet]:
    """The set in a folder, or the sets in the folders below it, by name.

    Raises:
        HarnessError: there is none.
    """
    if (folder / MANIFEST).exists():
        return [set_from_folder(folder)]
    inner = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}")) if folder.is_dir() else []
    if not inner:
        raise HarnessError(
            f"there is no adversarial set in {folder}; make one: qharness attack MODEL --data DIR -o OUT"
        )
    return [set_from_folder(each) for each in inner]


def conditions_from_sets(
    folders: Sequence[str], artifact: Artifact, pipeline: Pipeline, samples: Sequence[Sample]
) -> tuple[Condition, ...]:
    """One condition for each set: its pictures through the declared pipeline, which only crops them.

    Raises:
        HarnessError: a folder without a set, a set that does not fit, or two of the same name.
    """
    conditions: dict[str, Condition] = {}
    for folder in folders:
        for each in sets_from_folder(Path(folder)):
            each.check(artifact, samples)
            if each.name in conditions:
                raise HarnessError(f"two adversarial sets are called {each.name}; rename the folder of one")
            conditions[each.name] = Condition(
                ADVERSARIAL, each.name, without_second_resize(pipeline), str(each.folder), each.key
            )
    return tuple(conditions.values())
