"""Presets: the preprocessing that well-known families of networks were trained with.

An artifact declares its own preprocessing in its sidecar. A preset is for a bare ONNX file, which cannot.
"""

from __future__ import annotations

from noise.base import Pipeline, Step

IMAGENET_MEAN = [0.485, 0.456, 0.406]
IMAGENET_STD = [0.229, 0.224, 0.225]

# name -> (what it is, the normalise step)
NORMALISATIONS = {
    "imagenet": (
        "torchvision: (x / 255 - mean) / std of ImageNet",
        {"scale": 255.0, "mean": IMAGENET_MEAN, "std": IMAGENET_STD},
    ),
    "tensorflow": (
        "Keras and TF-slim: levels from -1 to 1",
        {"scale": 127.5, "mean": [1.0, 1.0, 1.0], "std": [1.0, 1.0, 1.0]},
    ),
    "unit": ("levels from 0 to 1", {"scale": 255.0, "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}),
    "levels": ("raw levels from 0 to 255", {"scale": 1.0, "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}),
}

# The shorter side is resized to size / 0.875 before the crop: 256 for 224, the ImageNet convention.
CROP_FRACTION = 0.875


def pipeline_from_preset(name: str, *, size: int, layout: str = "nchw") -> Pipeline:
    """The usual pipeline for a square input.

    Args:
        name: a key of `NORMALISATIONS`, with ``-crop`` appended for pictures that are already resized
            (the centre is cut, nothing is resized).
        size: height and width of the network's input, in pixels.
        layout: "nchw" or "nhwc".
    """
    normalisation = NORMALISATIONS[name.removesuffix("-crop")][1]
    resized = round(size / CROP_FRACTION)
    params = {"geometry": "shorter_side", "size": resized, "filter": "bilinear", "ready_size": size}
    return Pipeline(
        (
            Step("decode", "pillow", {}),
            *(() if name.endswith("-crop") else (Step("resize", "pillow", params),)),
            Step("crop", "centre", {"size": size}),
            Step("normalise", "float32", normalisation),
            Step("layout", layout, {}),
        )
    )


def preset_names() -> tuple[str, ...]:
    """Every name that `pipeline_from_preset` accepts."""
    return tuple(name + suffix for name in NORMALISATIONS for suffix in ("", "-crop"))
