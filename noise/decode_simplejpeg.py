"""libjpeg-turbo with its speed switches, through the wheels of simplejpeg.

PyTurboJPEG calls the same functions with the same flags, but of a libturbojpeg that the system must have. The pixels
are libjpeg-turbo's either way, so simplejpeg, which brings it along, stands for both.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import simplejpeg

from noise.base import NoiseError, StepFunction
from noise.decode import Picture, check_pixels


def simplejpeg_decode(*, fast_dct: bool = False, fast_upsampling: bool = False) -> StepFunction:
    """``simplejpeg.decode_jpeg(bytes, "RGB")`` of simplejpeg 1.8 and later: ``tjDecompress2`` of libjpeg-turbo.

    JPEG only. EXIF orientation and ICC profiles are ignored. CMYK becomes RGB by libjpeg-turbo, without a profile.

    Args:
        fast_dct: ``TJFLAG_FASTDCT``: an inverse DCT in integers of less precision; off by up to 24 levels in
            photographs, and by more in noise (67).
        fast_upsampling: ``TJFLAG_FASTUPSAMPLE``: colour is repeated instead of interpolated where it was sub-sampled.

    Raises (when applied):
        NoiseError: not a JPEG, or a broken one.
    """

    def apply(data: bytes, rng: np.random.Generator) -> Picture:
        del rng
        check_pixels(data)
        try:
            decoded = simplejpeg.decode_jpeg(data, "RGB", fastdct=fast_dct, fastupsample=fast_upsampling)
        except ValueError as error:
            raise NoiseError(f"libjpeg-turbo cannot decode the picture: {error}") from error
        return cast(Picture, decoded)

    return apply
