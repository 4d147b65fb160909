"""Snow: the scene turns white, and flakes streak across it."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from noise.base import StepFunction, severities
from noise.corruptions.draws import standard_normal
from noise.corruptions.motion_blur import streaked
from noise.corruptions.zoom_blur import grid

SETTINGS = severities(
    "snow",
    {"mean": 0.1, "deviation": 0.3, "zoom": 3, "threshold": 0.5, "radius_px": 10, "sigma_px": 4, "clarity": 0.8},
    {"mean": 0.2, "deviation": 0.3, "zoom": 2, "threshold": 0.5, "radius_px": 12, "sigma_px": 4, "clarity": 0.7},
    {"mean": 0.55, "deviation": 0.3, "zoom": 4, "threshold": 0.9, "radius_px": 12, "sigma_px": 8, "clarity": 0.7},
    {"mean": 0.55, "deviation": 0.3, "zoom": 4.5, "threshold": 0.85, "radius_px": 12, "sigma_px": 8, "clarity": 0.65},
    {"mean": 0.55, "deviation": 0.3, "zoom": 2.5, "threshold": 0.85, "radius_px": 12, "sigma_px": 12, "clarity": 0.55},
)

STEEPEST, FLATTEST = -135.0, -45.0
# Sums in single precision may fall short of a whole level, of which the truncation would make a level less.
ROUNDING = 1 / 1024


def snow(  # noqa: PLR0913 - the original has seven constants
    *, mean: float, deviation: float, zoom: float, threshold: float, radius_px: int, sigma_px: float, clarity: float
) -> StepFunction:
    """A whitened picture under two layers of flakes, one the other turned by half a circle (ImageNet-C).

    Flakes are ``N(mean, deviation)`` above ``threshold``, enlarged by ``zoom`` and streaked by ImageMagick's
    motion blur at ``U(-135, -45)`` degrees. ``clarity`` is the weight of the picture against its whitened self,
    ``max(x, 1.5 grey + 0.5)``. Flakes keep their size in pixels at every size of picture. The original is written
    for squares; here each axis has its own grid.
    """

    def apply(picture: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        height, width = picture.shape[:2]
        flakes = enlarged_noise(height, width, zoom, rng) * np.float32(deviation) + np.float32(mean)
        flakes[flakes < threshold] = 0
        layer = (np.clip(flakes, 0, 1) * np.float32(255)).astype(np.uint8)
        streaks = streaked(layer, radius_px, sigma_px, rng.uniform(STEEPEST, FLATTEST))
        falling = cv2.add(streaks, cv2.rotate(streaks, cv2.ROTATE_180), dtype=cv2.CV_32F) + np.float32(ROUNDING)
        white = cv2.cvtColor(picture.astype(np.float32), cv2.COLOR_RGB2GRAY) * np.float32(1.5) + np.float32(127.5)
        planes = [
            plane * np.float32(clarity) + np.maximum(plane, white) * np.float32(1 - clarity) + falling
            for plane in cv2.split(picture)
        ]
        return np.asarray(cv2.merge([np.minimum(plane, 255).astype(np.uint8) for plane in planes]), np.uint8)

    return apply


def enlarged_noise(height: int, width: int, zoom: float, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """The middle of a normal layer, enlarged to ``height x width`` as ``scipy.ndimage.zoom(order=1)`` does.

    The original draws the whole layer and zooms into its middle; only the middle is drawn here.
    """
    (down, top), (across, left) = grid(height, zoom), grid(width, zoom)
    rows, columns = math.ceil(height / zoom), math.ceil(width / zoom)
    top, left = top - (height - rows) // 2, left - (width - columns) // 2
    y = np.minimum(top + down * np.arange(height), rows - 1)
    x = np.minimum(left + across * np.arange(width), columns - 1)
    middle = standard_normal(rng, (rows, columns))
    return _between(_between(middle, y).T, x).T


def _between(values: npt.NDArray[np.float32], places: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Rows of ``values`` at ``places`` between them, interpolated linearly."""
    lower = np.minimum(places.astype(np.intp), values.shape[0] - 2)
    part = (places - lower).astype(np.float32)[:, None]
    return np.asarray(values[lower] * (1 - part) + values[lower + 1] * part, np.float32)
