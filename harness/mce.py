"""Mean corruption error: errors under the fifteen corruptions of ImageNet-C, relative to AlexNet's.

Hendrycks and Dietterich (2019). The constants are keyed by name: lists that rely on one order of the corruptions
have been reordered in other code bases without their constants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


def _check_complete(errors: Mapping[str, Sequence[float]]) -> None:
    missing = [name for name in ALEXNET_ERROR if name not in errors]
    if missing:
        raise ValueError(f"mCE is over all fifteen corruptions; missing: {', '.join(missing)}")
