"""Normalise: 8-bit levels become the numbers that the network was trained on.

A channel has 256 possible levels, so every variant does its arithmetic once, into a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt

from noise.base import NoiseError, Step, StepFunction

Values = npt.NDArray[np.float32]
Numbers = Sequence[float]

# codes -> (least, greatest, whether zero is code 0)
CODES = {"uint8": (0, 255, False), "int8": (-128, 127, True)}

SETTINGS = {
    "float32": Step("normalise", "float32", {}),
    "float16": Step("normalise", "float16", {}),
    "integer": Step("normalise", "integer", {}),
    "quantised-uint8": Step("normalise", "quantised", {"codes": "uint8", "step": 0, "zero": 0}),
    "quantised-int8": Step("normalise", "quantised", {"codes": "int8", "step": 0, "zero": 0}),
}


def float32(*, scale: float, mean: Numbers, std: Numbers) -> StepFunction:
    """``(x / scale - mean) / std`` per channel; uint8 HWC in, float32 HWC out.

    Every operation rounds to float32, in this order, so the result has the bits of torchvision's ``ToTensor``
    and ``Normalize``.
    """
    return _looked_up(_formula(np.float32, scale, mean, std))


def float16(*, scale: float, mean: Numbers, std: Numbers) -> StepFunction:
    """`float32`'s formula with constants and every result rounded to float16; the values are handed on as float32.

    What a device does that prepares pictures in half precision: near 1 a float16 has steps of 1/1024, so the 256 levels
    stay apart, a tenth of a level or so from where they should be.
    """
    return _looked_up(_formula(np.float16, scale, mean, std).astype(np.float32))


def integer(*, scale: float, mean: Numbers, std: Numbers) -> StepFunction:
    """``(x - round(scale * mean)) * float16(1 / (scale * std))``: an engine that is fed uint8 and normalises itself.

    The mean is a whole level, halves to even; the factor is rounded to float16, the product to float32. Such is the
    AIPP unit of Ascend processors (``mean_chn`` in uint8, ``var_reci_chn`` in float16), and alike are others that
    subtract before they leave integers.
    """
    _check(scale, mean, std)
    levels = np.arange(256, dtype=np.float32)[:, None] - np.rint(scale * np.array(mean, np.float64)).astype(np.float32)
    factors = (1 / (scale * np.array(std, np.float64))).astype(np.float16)
    return _looked_up(levels * factors.astype(np.float32))


def quantised(*, scale: float, mean: Numbers, std: Numbers, codes: str, step: float = 0, zero: int = 0) -> StepFunction:
    """`float32`, then ``QuantizeLinear`` and ``DequantizeLinear`` of ONNX: one step for all channels, halves to even.

    An engine with an integer input rounds so before its first layer.

    Args:
        scale, mean, std: as for `float32`.
        codes: "uint8", 0 to 255 with a zero point, as for ONNX Runtime on the CPU; or "int8", around 0, as
            for TensorRT; of its codes -128 is reached only where ``step`` is too small.
        step: the scale of the engine's first QuantizeLinear, with its zero point ``zero``; a plan puts them here where
            the model is a Q/DQ file with such codes. 0 takes what min-max calibration finds as soon as it sees black
            and white in every channel: the range of all 256 levels. So it is where a run quantises the model itself,
            also by percentiles or entropy, whose narrower ranges clip what this one keeps: quantise the model first to
            have them.
        zero: the zero point, where ``step`` is given.
    """
    values = _formula(np.float32, scale, mean, std)
    step, zero = input_grid(scale=scale, mean=mean, std=std, codes=codes, step=step, zero=zero)
    least, greatest, _ = CODES[codes]
    rounded = np.clip(np.rint(values / np.float32(step)) + zero, least, greatest)
    return _looked_up(((rounded - zero) * np.float32(step)).astype(np.float32))


def input_grid(
    *, scale: float, mean: Numbers, std: Numbers, codes: str, step: float = 0, zero: int = 0
) -> tuple[float, int]:
    """The step and the zero point with which `quantised` rounds; it takes the same arguments."""
    if codes not in CODES:
        raise NoiseError(f"an integer input has codes {' or '.join(CODES)}; got {codes!r}")
    if step:
        return step, zero
    least, greatest, symmetric = CODES[codes]
    values = _formula(np.float32, scale, mean, std)
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    step = max(-low, high) / greatest if symmetric else (high - low) / (greatest - least)
    return step, 0 if symmetric else round(least - low / step)


def _formula(kind: Any, scale: float, mean: Numbers, std: Numbers) -> npt.NDArray[Any]:
    """[256, 3]: the formula, every operation rounded to ``kind``."""
    _check(scale, mean, std)
    levels = np.arange(256, dtype=kind)[:, None] / kind(scale)
    return cast(npt.NDArray[Any], (levels - np.array(mean, kind)) / np.array(std, kind))


def _check(scale: float, mean: Numbers, std: Numbers) -> None:
    if len(mean) != 3 or len(std) != 3 or not all(std) or not scale:
        raise NoiseError(
            f"normalise needs three means, three non-zero deviations and a non-zero scale; "
            f"got mean {list(mean)}, std {list(std)}, scale {scale}"
        )


def _looked_up(values: Values) -> StepFunction:
    table = values.reshape(1, 256, 3)

    def apply(picture: npt.NDArray[np.uint8], rng: np.random.Generator) -> Values:
        del rng
        return cast(Values, cv2.LUT(np.ascontiguousarray(picture), table))

    return apply
