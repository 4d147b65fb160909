"""FFmpeg's decoders, through PyAV's wheels: no system binary is needed."""

from __future__ import annotations

import io
from typing import cast

import av
import numpy as np
from av.video.reformatter import Interpolation

from noise.base import NoiseError, StepFunction
from noise.decode import Picture, check_pixels


def ffmpeg() -> StepFunction:
    """The first frame of ``av.open(file).decode(video=0)``, as rgb24 by swscale; PyAV 17 and later.

    This is ``ffmpeg -noautorotate -i FILE -f rawvideo -pix_fmt rgb24``: FFmpeg's own JPEG decoder (``mjpeg``), its
    integer inverse DCT, and swscale's default flag, bicubic. swscale interpolates colour in pictures of odd width or
    height alone; in all others it repeats it. It rounds in fixed point. EXIF orientation and ICC profiles are ignored.
    CMYK becomes RGB as ``mjpeg`` does it. 16-bit channels are scaled by swscale. A truncated JPEG is decoded as far as
    it goes: FFmpeg conceals the rest.

    Raises (when applied):
        NoiseError: FFmpeg makes nothing of the bytes.
    """

    def apply(data: bytes, rng: np.random.Generator) -> Picture:
        del rng
        check_pixels(data)
        try:
            with av.open(io.BytesIO(data), "r") as container:
                container.streams.video[0].thread_count = 1  # workers are the parallelism
                frame = next(container.decode(video=0))
                picture = frame.to_ndarray(format="rgb24", interpolation=Interpolation.BICUBIC, threads=1)
                return cast(Picture, np.ascontiguousarray(picture))  # FFmpeg pads its rows
        except (av.FFmpegError, IndexError, StopIteration, ValueError) as error:
            raise NoiseError(f"FFmpeg cannot decode the picture: {type(error).__name__}: {error}") from error

    return apply
