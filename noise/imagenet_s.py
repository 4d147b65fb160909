"""ImageNet-S: three decoders times eleven resizes, as RobustART made it.

Tang et al., "RobustART" (2021), ``imagenet_s_gen.py``: every picture is decoded, resized to a *square* of 8/7 of the
crop (256 for 224; the aspect ratio is not kept) and cropped in its centre. What counts are the mean, the standard
deviation and the worst of the accuracies over the settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from noise.base import Change, Ratio
from noise.decode import SETTINGS as DECODE_SETTINGS

# RobustART calls the first "pil", and runs the third as a command. Whether EXIF turns a picture is left as it is
# declared, as far as the decoder can: that would be another difference.
DECODERS = {name: DECODE_SETTINGS[name] for name in ("pillow", "opencv", "ffmpeg")}

# Setting -> library, and what is told it.
RESIZES: dict[str, tuple[str, Mapping[str, Any]]] = {
    **{
        f"pillow-{name}": ("pillow", {"filter": name, "reducing_gap": None})
        for name in ("bilinear", "nearest", "box", "hamming", "bicubic", "lanczos")
    },
    **{
        f"opencv-{name}": ("opencv", {"filter": name})
        for name in ("nearest", "bilinear", "area", "bicubic", "lanczos4")
    },
}

SIZE = Ratio("crop", "size", 8 / 7)

SETTINGS = {
    f"{decoder}+{resize}": (
        decode,
        Change("resize", {"geometry": "square", "size": SIZE, **params}, name=library),
    )
    for decoder, decode in DECODERS.items()
    for resize, (library, params) in RESIZES.items()
}
