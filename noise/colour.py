"""Colour: what happens to the channels between the sensor's format and the resize.

A colour step comes directly behind the decoder, in front of the resize, because that is where cameras deliver NV12: at
their own resolution. Half the colour of 500 x 375 pixels is another loss than half the colour of the crop.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import cv2
import numpy as np
import numpy.typing as npt

from noise.base import NoiseError, Step, StepFunction

Picture = npt.NDArray[np.uint8]
Matrix = npt.NDArray[np.float32]

# The weights of red and blue in luma.
MATRICES = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}


class Swing(NamedTuple):
    """The codes that a range gives to luma from black to white, and to a colour difference from -1/2 to 1/2."""

    black: int
    luma: int
    chroma: int


RANGES = {"full": Swing(0, 255, 255), "limited": Swing(16, 219, 224)}


def _nv12(matrix: str, levels: str, read_matrix: str = "", read_levels: str = "") -> Step:
    params = {
        "matrix": matrix,
        "levels": levels,
        "read_matrix": read_matrix or matrix,
        "read_levels": read_levels or levels,
    }
    return Step("colour", "nv12", params)


SETTINGS = {
    "bgr": Step("colour", "bgr", {}),
    "nv12-bt601-full": _nv12("bt601", "full"),
    "nv12-bt601-limited": _nv12("bt601", "limited"),
    "nv12-bt709-full": _nv12("bt709", "full"),
    "nv12-bt709-limited": _nv12("bt709", "limited"),
    "nv12-bt601-read-as-bt709": _nv12("bt601", "limited", read_matrix="bt709"),
    "nv12-bt709-read-as-bt601": _nv12("bt709", "limited", read_matrix="bt601"),
    "nv12-limited-read-as-full": _nv12("bt601", "limited", read_levels="full"),
    "nv12-full-read-as-limited": _nv12("bt601", "full", read_levels="limited"),
}


def bgr() -> StepFunction:
    """Red and blue change places, ``picture[:, :, ::-1]``: a picture that OpenCV read, taken for RGB."""

    def apply(picture: Picture, rng: np.random.Generator) -> Picture:
        del rng
        return np.ascontiguousarray(picture[:, :, ::-1])

    return apply


def nv12(*, matrix: str, levels: str, read_matrix: str, read_levels: str) -> StepFunction:
    """RGB to NV12 and back: 8-bit luma for every pixel, 8-bit colour differences for every 2 x 2 of them.

    ITU-R BT.601 and BT.709, in float32; luma and chroma are rounded to the nearest code, halves to even, and clipped. A
    colour difference is the mean of its four pixels before it is rounded (its place is their middle, as in JPEG); on
    the way back it is repeated for all four, as libyuv and most devices do. A side of odd length is continued by its
    last pixel.

    Args:
        matrix: of `MATRICES`, of the camera.
        levels: of `RANGES`: "full" has codes 0 to 255, "limited" 16 to 235 (luma) and 16 to 240 (chroma).
        read_matrix, read_levels: what the device takes them for.
    """
    forwards, offsets = _yuv_from_rgb(matrix, levels)
    there, zero = _yuv_from_rgb(read_matrix, read_levels)
    backwards = np.linalg.inv(there.astype(np.float64)).astype(np.float32)
    back_offsets = -backwards @ zero

    def apply(picture: Picture, rng: np.random.Generator) -> Picture:
        del rng
        height, width = picture.shape[:2]
        even = cv2.copyMakeBorder(picture, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        yuv = cv2.transform(even.astype(np.float32), np.column_stack([forwards, offsets]))
        whole, quarter = (even.shape[1], even.shape[0]), (even.shape[1] // 2, even.shape[0] // 2)
        # Halving by area is the mean of 2 x 2.
        chroma = _codes(cv2.resize(yuv, quarter, interpolation=cv2.INTER_AREA))
        stored = cv2.resize(chroma, whole, interpolation=cv2.INTER_NEAREST)
        cv2.insertChannel(_codes(cv2.extractChannel(yuv, 0)), stored, 0)
        rgb = cv2.transform(stored.astype(np.float32), np.column_stack([backwards, back_offsets]))
        return _codes(rgb)[:height, :width]

    return apply


def _codes(values: Any) -> Picture:
    """Rounded to whole numbers, halves to even, and clipped to 0 to 255."""
    return cast(Picture, cv2.add(values, 0.0, dtype=cv2.CV_8U))  # type: ignore[call-overload]  # its stubs know no scalars


def _yuv_from_rgb(matrix: str, levels: str) -> tuple[Matrix, Matrix]:
    """The 3 x 3 matrix from levels 0 to 255 to codes, and the codes of black."""
    for name, choices in ((matrix, MATRICES), (levels, RANGES)):
        if name not in choices:
            raise NoiseError(f"NV12 comes in {', '.join(choices)}; got {name!r}")
    red, blue = MATRICES[matrix]
    swing = RANGES[levels]
    luma = np.array([red, 1 - red - blue, blue])
    differences = [(np.array([0, 0, 1]) - luma) / (2 * (1 - blue)), (np.array([1, 0, 0]) - luma) / (2 * (1 - red))]
    rows = [swing.luma / 255 * luma, *(swing.chroma / 255 * each for each in differences)]
    return np.array(rows, np.float32), np.array([swing.black, 128, 128], np.float32)
