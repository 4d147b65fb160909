"""Samples: labels by declared names, by WordNet id, by order; a fair and stable draw."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from engines.artifact import Artifact, TensorSpec
from harness.errors import HarnessError
from harness.labels import imagenet_wordnet_ids, labels_from_names
from harness.samples import UNREADABLE, samples_from_data


def artifact(classes: int, names: tuple[str, ...] | None = None) -> Artifact:
    picture, scores = TensorSpec("x", "float32", (None, 3, 8, 8)), TensorSpec("y", "float32", (None, classes))
    return Artifact(Path("m.onnx"), "onnx", "0" * 64, picture, scores, "logits", False, classes=names)


def make_folder(root: Path, *files: str) -> Path:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def test_the_shipped_wordnet_ids_are_the_thousand_of_imagenet() -> None:
    ids = imagenet_wordnet_ids()
    assert len(set(ids)) == 1000
    assert list(ids) == sorted(ids)
    assert (ids[0], ids[1], ids[999]) == ("n01440764", "n01443537", "n15075141")


def test_wordnet_folders_are_labelled_by_their_place_among_the_thousand() -> None:
    labels = labels_from_names(["n01443537", "n15075141"], artifact(1000), "d")
    assert labels == {"n01443537": 1, "n15075141": 999}


def test_wordnet_folders_of_a_smaller_model_are_labelled_in_sorted_order() -> None:
    assert labels_from_names(["n01440764", "n15075141"], artifact(2), "d") == {"n01440764": 0, "n15075141": 1}


def test_other_folders_are_labelled_in_sorted_order_when_their_number_fits(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, "b/1.jpg", "a/1.jpg")
    samples = samples_from_data(str(folder), "", artifact(2), seed=0).samples
    assert {sample.id: sample.label for sample in samples} == {"a/1.jpg": 0, "b/1.jpg": 1}


def test_declared_class_names_allow_missing_folders() -> None:
    names = ("ant", "bee", "cat")
    assert labels_from_names(["cat"], artifact(3, names), "d") == {"cat": 2}


@pytest.mark.parametrize(
    ("names", "model", "message"),
    [
        (["a", "b"], artifact(3), "2 classes, but m.onnx has 3"),
        (["n00000001"], artifact(1000), "not among the 1,000 classes of ImageNet-1k, the first is 'n00000001'"),
        (["n15075141"], artifact(10), "1 classes, but m.onnx has 10"),
        (["n01440764", "n01443537"], artifact(1001), "has 1001; list the model's classes in their order"),
        (["dog"], artifact(2, ("ant", "bee")), "not among the classes that m.onnx declares, the first is 'dog'"),
        ([], artifact(2), "0 classes, but m.onnx has 2"),
    ],
)
def test_labels_that_do_not_fit_the_model_are_refused(names: list[str], model: Artifact, message: str) -> None:
    with pytest.raises(HarnessError, match=message):
        labels_from_names(names, model, "d")


def test_the_order_is_a_draw_fixed_by_the_seed(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, *(f"{name}/{i}.jpg" for name in "ab" for i in range(50)))
    model = artifact(2)
    ids = [sample.id for sample in samples_from_data(str(folder), "", model, seed=0).samples]
    assert ids == [sample.id for sample in samples_from_data(str(folder), "", model, seed=0).samples]
    assert ids != sorted(ids)
    assert ids != [sample.id for sample in samples_from_data(str(folder), "", model, seed=1).samples]
    first = [sample_id[0] for sample_id in ids[:40]]
    assert 8 <= first.count("a") <= 32


def test_the_fingerprint_knows_names_labels_and_contents(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, "a/1.jpg", "b/1.jpg")
    model = artifact(2)
    one = samples_from_data(str(folder), "", model, seed=0)
    assert one.fingerprint() == samples_from_data(str(folder), "", model, seed=5).fingerprint()
    relabelled = replace(one, samples=tuple(replace(s, label=1 - s.label) for s in one.samples))
    renamed = replace(one, samples=tuple(replace(s, id=s.id + "x") for s in one.samples))
    (folder / "a" / "1.jpg").write_bytes(b"another picture")
    changed = samples_from_data(str(folder), "", model, seed=0)
    assert len({each.fingerprint() for each in (relabelled, renamed, changed)}) == 3


def test_a_name_that_is_no_utf8_has_an_id_all_the_same(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, "a/1.jpg", "b/1.jpg")
    (folder / "a" / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"x")
    found = samples_from_data(str(folder), "", artifact(2), seed=0)
    assert "a/caf\\xe9.jpg" in {sample.id for sample in found.samples}
    assert found.fingerprint()


def test_a_file_that_cannot_be_read_has_a_fingerprint(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, "a/1.jpg", "b/1.jpg")
    found = samples_from_data(str(folder), "", artifact(2), seed=0)
    Path(found.samples[0].locator.path).unlink()
    assert found.contents()[found.samples[0].id] == UNREADABLE


def test_files_that_are_no_pictures_are_not_samples(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, "a/1.JPEG", "a/notes.txt", "b/deep/2.png", ".hidden/3.jpg")
    ids = {sample.id for sample in samples_from_data(str(folder), "", artifact(2), seed=0).samples}
    assert ids == {"a/1.JPEG", "b/deep/2.png"}
