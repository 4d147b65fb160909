"""Textures, light and solid objects: what turns outlines into something like a photograph.

Canvases are float32 arrays of shape [height, width, 3], RGB in [0, 1]; masks and textures are
float32 of shape [height, width] in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from harness.demo.outlines import Outline

Plane = npt.NDArray[np.float32]

_SUPERSAMPLING = 3
_POSITION_BITS = 6  # cv2.fillPoly takes fixed-point positions with this many fractional bits


@dataclass(frozen=True)
class Light:
    """One distant lamp: the unit vector towards it, x right, y down, z to the viewer."""

    towards: tuple[float, float, float]
    ambient: float
    shadow: float

    @staticmethod
    def sample(rng: np.random.Generator) -> Light:
        """A lamp 30 to 60 degrees above the picture plane, from any side."""
        azimuth, elevation = rng.uniform(0.0, 2.0 * np.pi), np.radians(rng.uniform(30.0, 60.0))
        flat = float(np.cos(elevation))
        towards = (flat * float(np.cos(azimuth)), flat * float(np.sin(azimuth)), float(np.sin(elevation)))
        return Light(towards, ambient=rng.uniform(0.35, 0.6), shadow=rng.uniform(0.35, 0.7))


@dataclass(frozen=True)
class Solid:
    """An outline placed on the canvas, with the two colours (RGB in [0, 1]) its texture mixes."""

    outline: Outline
    colours: npt.NDArray[np.float32]
    centre: tuple[float, float]
    radius: float

    def contours(self, rng: np.random.Generator) -> Outline:
        """The outline in canvas pixels: turned, mirrored and slightly squashed at random."""
        turn, skew = _rotation(rng), _rotation(rng)
        squash = np.diag([1.0, rng.uniform(0.8, 1.0)])
        mirror = np.diag([1.0, rng.choice([-1.0, 1.0])])
        pose = self.radius * (skew.T @ squash @ skew @ turn @ mirror)
        return [contour @ pose.T + self.centre for contour in self.outline]


def _rotation(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    angle = rng.uniform(0.0, 2.0 * np.pi)
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[cosine, -sine], [sine, cosine]])


def two_colours(rng: np.random.Generator, *, hue: float, value: float) -> npt.NDArray[np.float32]:
    """Two related RGB colours [2, 3] in [0, 1] near the given hue (a fraction of the circle) and value."""
    hues = (hue + rng.normal(0.0, 0.05, 2)) % 1.0
    saturations = rng.uniform(0.1, 0.75, 2)
    values = np.clip(value + rng.uniform(0.05, 0.14) * np.array([-1.0, 1.0]), 0.05, 1.0)
    hsv = np.stack([hues * 360.0, saturations, values], axis=1).astype(np.float32)
    return np.asarray(cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0], dtype=np.float32)


def clouds(shape: tuple[int, int], rng: np.random.Generator, *, grain: float) -> Plane:
    """Smooth random texture; `grain` is the size in pixels of its largest features."""
    height, width = shape
    total = np.zeros(shape, np.float32)
    for octave in range(4):
        cells = 2.0**octave / grain
        knots = rng.random((int(height * cells) + 2, int(width * cells) + 2), dtype=np.float32)
        total += 0.55**octave * cv2.resize(knots, (width, height), interpolation=cv2.INTER_CUBIC)
    low, high = float(total.min()), float(total.max())
    return np.asarray((total - low) / max(high - low, 1e-6), dtype=np.float32)


def texture(shape: tuple[int, int], rng: np.random.Generator, *, grain: float) -> Plane:
    """Clouds, stripes, checks or dots in any direction, bent a little; `grain` is their size in pixels."""
    cloud = clouds(shape, rng, grain=grain)
    kind = rng.choice(["clouds", "stripes", "checks", "dots"], p=[0.4, 0.25, 0.15, 0.2])
    if kind == "clouds":
        return cloud
    angle, bend = rng.uniform(0.0, np.pi), rng.uniform(0.3, 3.0)
    y, x = np.mgrid[: shape[0], : shape[1]] * (2.0 * np.pi / grain)
    across = np.sin(np.cos(angle) * x + np.sin(angle) * y + bend * cloud)
    along = np.sin(np.cos(angle) * y - np.sin(angle) * x + bend * cloud)
    if kind == "stripes":
        pattern = 0.5 + 0.5 * across
    elif kind == "checks":
        pattern = 0.5 + 0.5 * np.tanh(3.0 * across * along)
    else:
        pattern = 1.0 / (1.0 + np.exp(-6.0 * (across + along - 0.8)))
    return np.asarray(0.75 * pattern + 0.25 * cloud, dtype=np.float32)


def mix(colours: npt.NDArray[np.float32], weight: Plane) -> Plane:
    """A canvas that goes from the first of two colours where `weight` is 0 to the second where it is 1."""
    return np.asarray(colours[0] + weight[..., None] * (colours[1] - colours[0]), dtype=np.float32)


def coverage(contours: Outline, shape: tuple[int, int]) -> Plane:
    """How much of each pixel the contours (canvas pixels, even-odd rule) cover."""
    height, width = shape
    fine = np.zeros((height * _SUPERSAMPLING, width * _SUPERSAMPLING), np.uint8)
    scale = _SUPERSAMPLING * 2**_POSITION_BITS
    points = [np.round(contour * scale).astype(np.int32) for contour in contours]
    cv2.fillPoly(fine, points, 255, shift=_POSITION_BITS)
    mask = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(mask, dtype=np.float32) / np.float32(255.0)


def _shading(mask: Plane, light: Light, rng: np.random.Generator, *, radius: float) -> tuple[Plane, Plane]:
    """Diffuse and glossy light on a solid with bevelled edges and a slightly uneven surface."""
    inside = np.asarray(mask > 0.5, dtype=np.uint8)
    depth = np.asarray(cv2.distanceTransform(inside, cv2.DIST_L2, 5), dtype=np.float32)
    bevel = radius * rng.uniform(0.12, 0.45)
    relief = bevel * (1.0 - np.exp(-depth / bevel)) * rng.uniform(0.8, 1.6)
    relief += 0.04 * radius * clouds(mask.shape, rng, grain=0.6 * radius + 4.0)
    relief = cv2.GaussianBlur(relief.astype(np.float32), (0, 0), 0.6 + 0.02 * radius)
    slope_y, slope_x = np.gradient(relief)
    length = np.sqrt(slope_x**2 + slope_y**2 + 1.0)
    x, y, z = light.towards
    facing = np.clip((z - x * slope_x - y * slope_y) / length, 0.0, 1.0)
    halfway = np.array([x, y, z + 1.0]) / np.sqrt(x**2 + y**2 + (z + 1.0) ** 2)
    mirror = np.clip((halfway[2] - halfway[0] * slope_x - halfway[1] * slope_y) / length, 0.0, 1.0)
    diffuse = light.ambient + (1.25 - light.ambient) * facing
    gloss = rng.uniform(0.0, 0.45) * mirror ** rng.uniform(15.0, 60.0)
    return diffuse.astype(np.float32), gloss.astype(np.float32)


def place(canvas: Plane, solid: Solid, light: Light, rng: np.random.Generator) -> None:
    """Paint the solid and the shadow it throws onto `canvas`, in place."""
    reach = int(1.6 * solid.radius) + 4
    column, row = round(solid.centre[0]), round(solid.centre[1])
    left, top = max(column - reach, 0), max(row - reach, 0)
    view = canvas[top : max(row + reach, 0), left : max(column + reach, 0)]
    height, width = view.shape[:2]
    if height == 0 or width == 0:
        return
    mask = coverage([contour - (left, top) for contour in solid.contours(rng)], (height, width))
    drop = solid.radius * rng.uniform(0.1, 0.25)
    slide = np.array([[1.0, 0.0, -drop * light.towards[0]], [0.0, 1.0, -drop * light.towards[1]]])
    shadow = cv2.warpAffine(mask, slide, (width, height))
    shadow = cv2.GaussianBlur(shadow, (0, 0), 0.8 + 0.35 * drop)
    diffuse, gloss = _shading(mask, light, rng, radius=solid.radius)
    grain = max(solid.radius * rng.uniform(0.25, 0.8), 5.0)
    surface = mix(solid.colours, texture((height, width), rng, grain=grain))
    surface = surface * diffuse[..., None] + gloss[..., None]
    shaded = view * (1.0 - light.shadow * np.asarray(shadow, dtype=np.float32)[..., None])
    view[:] = shaded + mask[..., None] * (surface - shaded)


def expose(canvas: Plane, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """The picture a camera would take: uneven light, a little blur and sensor noise, 8 bits."""
    height, width = canvas.shape[:2]
    y, x = np.mgrid[-1.0 : 1.0 : height * 1j, -1.0 : 1.0 : width * 1j]
    angle = rng.uniform(0.0, 2.0 * np.pi)
    slope, vignette = rng.uniform(0.05, 0.35), rng.uniform(0.0, 0.15)
    gain = 1.0 + slope * (np.cos(angle) * x + np.sin(angle) * y) - vignette * (x**2 + y**2)
    tint = rng.uniform(0.9, 1.1, 3)
    lit = np.asarray(canvas * (gain[..., None] * tint), dtype=np.float32)
    picture = cv2.GaussianBlur(lit, (0, 0), rng.uniform(0.3, 0.9))
    noise = rng.normal(0.0, rng.uniform(0.002, 0.01), picture.shape)
    return np.asarray(np.clip(np.round((picture + noise) * 255.0), 0, 255), dtype=np.uint8)
