"""ImageNet-S: three decoders times eleven resizes, as RobustART made it.

Tang et al., "RobustART" (2021), ``imagenet_s_gen.py``: every picture is decoded, resized to a *square* of 8/7 of the
crop (256 for 224; the aspect ratio is not kept) and cropped in its centre. What counts are the mean, the standard
deviation and the worst of the accuracies over the settings.
"""

from __future__ import annotations

from noise.base import Change, Ratio, Step

# RobustART calls the first "pil", and runs the third as a command.
DECODERS = {name: Step("decode", name, {}) for name in ("pillow", "opencv", "ffmpeg")}

# Setting -> library and filter.
RESIZES = {
    **{f"pillow-{name}": ("pillow", name) for name in ("bilinear", "nearest", "box", "hamming", "bicubic", "lanczos")},
    **{f"opencv-{name}": ("opencv", name) for name in ("nearest", "bilinear", "area", "bicubic", "lanczos4")},
}

SIZE = Ratio("crop", "size", 8 / 7)

SETTINGS = {
    f"{decoder}+{resize}": (
        step,
        Change("resize", {"geometry": "square", "size": SIZE, "filter": filter_name}, name=library),
    )
    for decoder, step in DECODERS.items()
    for resize, (library, filter_name) in RESIZES.items()
}
