"""Mean corruption error: errors under the fifteen corruptions of ImageNet-C, relative to AlexNet's.

Hendrycks and Dietterich (2019). The constants are keyed by name: lists that rely on one order of the corruptions
have been reordered in other code bases without their constants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.estimate import Estimate, Values, Z, paired_difference, proportion, scaled

SEVERITIES = 5

# AlexNet's top-1 error, the mean over the five severities.
ALEXNET_ERROR = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
ALEXNET_CLEAN_ERROR = 0.435  # as the paper's table gives it, to three digits


def corruption_error(corruption: str, errors: Sequence[float]) -> float:
    """CE: the sum of the five errors over AlexNet's.

    Args:
        corruption: one of the fifteen.
        errors: top-1 errors at severities 1 to 5, 0 to 1.

    Raises:
        ValueError: an unknown corruption, or not five errors.
    """
    if corruption not in ALEXNET_ERROR:
        raise ValueError(f"AlexNet's error under {corruption!r} is not known; known: {', '.join(ALEXNET_ERROR)}")
    if len(errors) != SEVERITIES:
        raise ValueError(f"a corruption error needs errors at {SEVERITIES} severities; got {len(errors)}")
    return sum(errors) / (SEVERITIES * ALEXNET_ERROR[corruption])


def relative_corruption_error(corruption: str, errors: Sequence[float], clean_error: float) -> float:
    """Relative CE: how much the corruption adds to the clean error, over how much it adds to AlexNet's.

    Args:
        corruption: one of the fifteen.
        errors: top-1 errors at severities 1 to 5, 0 to 1.
        clean_error: top-1 error without corruption.
    """
    alexnet = ALEXNET_ERROR[corruption] - ALEXNET_CLEAN_ERROR
    absolute = corruption_error(corruption, errors) * ALEXNET_ERROR[corruption]
    return (absolute - clean_error) / alexnet


def mean_corruption_error(errors: Mapping[str, Sequence[float]]) -> float:
    """mCE over all fifteen corruptions, 1.0 for AlexNet.

    Args:
        errors: corruption -> top-1 errors at severities 1 to 5; more corruptions than the fifteen are left out.

    Raises:
        ValueError: one of the fifteen is missing. A mean over fewer is no mCE.
    """
    _check_complete(errors)
    return sum(corruption_error(name, errors[name]) for name in ALEXNET_ERROR) / len(ALEXNET_ERROR)


def relative_mean_corruption_error(errors: Mapping[str, Sequence[float]], clean_error: float) -> float:
    """Relative mCE over all fifteen corruptions, 1.0 for AlexNet. Arguments and errors as above."""
    _check_complete(errors)
    each = (relative_corruption_error(name, errors[name], clean_error) for name in ALEXNET_ERROR)
    return sum(each) / len(ALEXNET_ERROR)


UNIT = "ratio to AlexNet"


@dataclass(frozen=True)
class CorruptionErrors:
    """The corruption errors of one contender, 1.0 for AlexNet.

    Args:
        each: corruption -> CE, for every one of the fifteen that was measured at all five severities.
        mce: their mean; ``None`` where one of the fifteen is missing.
        relative: relative mCE; ``None`` without mCE or without clean answers.
        change: mCE minus that of the fp32 version, on the same pictures; ``None`` where there is none.
    """

    each: Mapping[str, Estimate]
    mce: Estimate | None
    relative: Estimate | None
    change: Estimate | None


def corruption_errors(
    wrong: Mapping[str, Values],
    clean: Values | None,
    before: Mapping[str, Values] | None,
    failed: int,
    z: float = Z,
) -> CorruptionErrors:
    """The estimates of one contender. mCE is linear in a picture's answers, so a picture is one observation.

    Args:
        wrong: corruption -> float64 [n], the share of the five severities at which a picture was got wrong.
        clean: float64 [n], 1 where it was got wrong without corruption.
        before: as ``wrong``, of the fp32 version.
        failed: pictures that failed under any condition.
        z: half the intervals' width in standard deviations.
    """
    each = {
        name: scaled(proportion(wrong[name], failed, z), 1 / ALEXNET_ERROR[name], UNIT)
        for name in ALEXNET_ERROR
        if name in wrong
    }
    if len(each) < len(ALEXNET_ERROR):
        return CorruptionErrors(each, None, None, None)
    weights = {name: 1 / (error * len(ALEXNET_ERROR)) for name, error in ALEXNET_ERROR.items()}
    mixed, total = _weighted(wrong, weights)
    change = None if before is None else paired_difference(_weighted(before, weights)[0], mixed, failed, z)
    relative = None
    if clean is not None:
        added = {name: 1 / ((error - ALEXNET_CLEAN_ERROR) * len(weights)) for name, error in ALEXNET_ERROR.items()}
        noisy, factor = _weighted(wrong, added)
        relative = scaled(paired_difference(clean, noisy, failed, z), factor, UNIT)
    return CorruptionErrors(
        each,
        scaled(proportion(mixed, failed, z), total, UNIT),
        relative,
        None if change is None else scaled(change, total, UNIT),
    )


def missing_corruptions(each: Mapping[str, object]) -> list[str]:
    """Which of the fifteen have no corruption error."""
    return [name for name in ALEXNET_ERROR if name not in each]


def _weighted(wrong: Mapping[str, Values], weights: Mapping[str, float]) -> tuple[Values, float]:
    """The weighted mean per picture, in [0, 1], and the sum of the weights."""
    total = sum(weights.values())
    mean: Values = np.sum([weight / total * wrong[name] for name, weight in weights.items()], axis=0)
    return mean, total


def _check_complete(errors: Mapping[str, Sequence[float]]) -> None:
    missing = [name for name in ALEXNET_ERROR if name not in errors]
    if missing:
        raise ValueError(f"mCE is over all fifteen corruptions; missing: {', '.join(missing)}")
