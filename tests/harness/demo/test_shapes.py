"""The demo pictures: repeatable, independent of order, and a proper folder of photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.demo.shapes import CLASSES, draw, draw_numbered, write_pictures


def test_same_generator_state_gives_same_pixels() -> None:
    first = draw(3, np.random.default_rng(11))
    again = draw(3, np.random.default_rng(11))
    assert np.array_equal(first, again)
    other = draw(3, np.random.default_rng(12))
    assert first.shape != other.shape or not np.array_equal(first, other)


def test_pixels_are_rgb_bytes_of_photographic_range() -> None:
    for class_index in range(len(CLASSES)):
        picture = draw(class_index, np.random.default_rng(class_index))
        height, width, channels = picture.shape
        assert picture.dtype == np.uint8
        assert channels == 3
        assert 250 <= height <= 340
        assert 250 <= width <= 340
        assert picture.std() > 10.0


def test_sixteen_classes_in_folder_order() -> None:
    assert len(set(CLASSES)) == 16
    assert list(CLASSES) == sorted(CLASSES)


def test_every_class_looks_different() -> None:
    """One random state draws the same scene but for the main object, as far as chance allows."""
    pictures = [draw(class_index, np.random.default_rng(5)) for class_index in range(len(CLASSES))]
    for index, picture in enumerate(pictures):
        for other in pictures[:index]:
            if picture.shape == other.shape:
                difference = np.abs(picture.astype(np.int16) - other.astype(np.int16)).max(axis=2)
                assert np.mean(difference > 16) > 0.01


@pytest.mark.parametrize("class_index", [-1, 16])
def test_unknown_class_is_refused(class_index: int) -> None:
    with pytest.raises(ValueError, match="from 0 to 15"):
        draw(class_index, np.random.default_rng(0))


def test_pictures_do_not_depend_on_order_or_count(tmp_path: Path) -> None:
    few = write_pictures(tmp_path / "few", per_class=1, seed=4, split="score")
    many = write_pictures(tmp_path / "many", per_class=2, seed=4, split="score")
    for path in few:
        assert path.read_bytes() == (tmp_path / "many" / path.parent.name / path.name).read_bytes()
    assert len(many) == 2 * len(few)
    forwards = [draw_numbered(index, 0, seed=4, split="score") for index in (2, 9, 15)]
    backwards = [draw_numbered(index, 0, seed=4, split="score") for index in (15, 9, 2)]
    assert all(np.array_equal(a, b) for a, b in zip(forwards, reversed(backwards), strict=True))


def test_splits_and_seeds_give_other_pictures() -> None:
    score = draw_numbered(0, 0, seed=4, split="score")
    for other in (
        draw_numbered(0, 0, seed=4, split="calibrate"),
        draw_numbered(0, 0, seed=5, split="score"),
        draw_numbered(0, 1, seed=4, split="score"),
    ):
        assert score.shape != other.shape or not np.array_equal(score, other)


def test_written_tree_is_an_image_folder_of_jpegs(tmp_path: Path) -> None:
    paths = write_pictures(tmp_path, per_class=1, seed=0, split="train")
    assert sorted(folder.name for folder in tmp_path.iterdir()) == list(CLASSES)
    assert {path.name for path in paths} == {"train_0000.jpg"}
    for path in paths:
        with Image.open(path) as picture:
            assert picture.format == "JPEG"
            assert picture.mode == "RGB"
            assert min(picture.size) >= 224
            picture.load()


def test_empty_tree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 0"):
        write_pictures(tmp_path, per_class=0, seed=0, split="train")
