"""mCE against published figures."""

from __future__ import annotations

import pytest

from harness.mce import (
    ALEXNET_CLEAN_ERROR,
    ALEXNET_ERROR,
    corruption_error,
    mean_corruption_error,
    relative_mean_corruption_error,
)

# torchvision's ResNet-50: accuracies in percent at severities 1 to 5, and the corruption error in percent, as
# published by RobustBench (its first 5,000 validation pictures).
RESNET50 = {
    "gaussian_noise": ((60.20, 48.78, 31.24, 14.22, 2.88), 77.3),
    "shot_noise": ((58.28, 44.86, 28.56, 10.26, 3.52), 79.3),
    "impulse_noise": ((48.54, 38.62, 29.04, 11.30, 2.44), 80.2),
    "defocus_blur": ((59.14, 51.54, 38.08, 27.52, 18.24), 74.5),
    "glass_blur": ((53.62, 39.74, 17.08, 13.06, 10.34), 88.6),
    "motion_blur": ((63.60, 53.42, 37.54, 21.58, 14.52), 78.7),
    "zoom_blur": ((52.58, 43.02, 35.60, 28.44, 21.94), 79.8),
    "snow": ((54.68, 31.20, 34.94, 23.44, 16.50), 78.3),
    "frost": ((61.06, 43.66, 30.64, 28.64, 22.58), 75.8),
    "fog": ((60.92, 56.00, 46.74, 40.24, 23.60), 66.5),
    "brightness": ((73.60, 72.22, 69.58, 64.96, 58.86), 57.0),
    "contrast": ((64.28, 58.24, 46.60, 20.98, 5.42), 71.4),
    "elastic_transform": ((66.84, 45.14, 54.56, 41.22, 17.02), 85.2),
    "pixelate": ((63.80, 64.34, 45.98, 29.30, 20.88), 76.8),
    "jpeg_compression": ((66.44, 62.34, 60.04, 47.86, 32.54), 76.1),
}
ERRORS = {name: [1 - accuracy / 100 for accuracy in accuracies] for name, (accuracies, _) in RESNET50.items()}
ALEXNET = {name: [error] * 5 for name, error in ALEXNET_ERROR.items()}


@pytest.mark.parametrize("corruption", RESNET50)
def test_each_corruption_error_is_the_published_one(corruption: str) -> None:
    assert 100 * corruption_error(corruption, ERRORS[corruption]) == pytest.approx(RESNET50[corruption][1], abs=0.06)


def test_resnet50_has_the_published_mce() -> None:
    assert 100 * mean_corruption_error(ERRORS) == pytest.approx(76.4, abs=0.1)


def test_alexnet_is_one_by_definition() -> None:
    assert mean_corruption_error(ALEXNET) == pytest.approx(1)
    assert relative_mean_corruption_error(ALEXNET, ALEXNET_CLEAN_ERROR) == pytest.approx(1)


def test_the_order_of_corruptions_does_not_matter() -> None:
    assert mean_corruption_error(dict(reversed(ERRORS.items()))) == pytest.approx(mean_corruption_error(ERRORS))


def test_an_incomplete_set_is_no_mce() -> None:
    few = {name: errors for name, errors in ERRORS.items() if name not in ("fog", "snow")}
    with pytest.raises(ValueError, match="missing: snow, fog"):
        mean_corruption_error(few)
    with pytest.raises(ValueError, match="errors at 5 severities; got 4"):
        corruption_error("fog", [0.1] * 4)
    with pytest.raises(ValueError, match="'spatter' is not known"):
        corruption_error("spatter", [0.1] * 5)
