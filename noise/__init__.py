"""Noise: every way in which a picture can differ between the laboratory and the device.

Two tables and nothing else. `STEPS` says which function makes a preprocessing step; `NOISES` says which
steps a noise puts into a pipeline. A new noise is one new file and one row in each.

A row names its target as ``module:attribute``. The module is imported only when somebody asks for the name,
so a row may need a package that is not installed; ``extra`` says how to get it.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["NOISES", "STEPS", "Entry"]


class Entry(NamedTuple):
    """One row of a table.

    Args:
        target: where the thing is, ``module:attribute``.
        about: what it is.
        extra: the extra of qharness that it needs beyond the base.
        stand_in: the noise that takes its place, under its own name, where files that it needs are missing.
    """

    target: str
    about: str
    extra: str | None = None
    stand_in: str | None = None


# stage.name -> a factory: keyword parameters (JSON values) -> function(x, rng) -> x
STEPS = {
    "decode.pillow": Entry("noise.decode:pillow", "Pillow, converted to 8-bit RGB"),
    "decode.opencv": Entry("noise.decode:opencv", "OpenCV, which turns pictures as EXIF says"),
    "decode.ffmpeg": Entry("noise.decode_ffmpeg:ffmpeg", "FFmpeg's own decoders and swscale, by PyAV", "decoders"),
    "decode.simplejpeg": Entry(
        "noise.decode_simplejpeg:simplejpeg_decode", "libjpeg-turbo with its speed switches", "decoders"
    ),
    "decode.torchvision": Entry("noise.decode_torchvision:torchvision", "torchvision.io on the CPU", "torch"),
    "decode.nvjpeg": Entry("noise.decode_torchvision:nvjpeg", "nvJPEG on a GPU, by torchvision.io", "torch"),
    "colour.bgr": Entry("noise.colour:bgr", "red and blue change places"),
    "colour.nv12": Entry("noise.colour:nv12", "a camera's YUV 4:2:0 and back to RGB"),
    "resize.pillow": Entry("noise.resize:pillow", "Pillow's resize: filters widen when shrinking"),
    "resize.opencv": Entry("noise.resize:opencv", "OpenCV's resize: fixed-width filters, no antialiasing"),
    "resize.torch": Entry("noise.resize_torch:pytorch", "PyTorch's interpolate, with antialiasing or without", "torch"),
    "crop.centre": Entry("noise.crop:centre", "a square from the middle"),
    "sensor.brightness": Entry("noise.corruptions.brightness:brightness", "the HSV value is raised"),
    "sensor.contrast": Entry("noise.corruptions.contrast:contrast", "channels are drawn to their mean"),
    "sensor.defocus_blur": Entry("noise.corruptions.defocus_blur:defocus_blur", "a disk of confusion"),
    "sensor.elastic_transform": Entry(
        "noise.corruptions.elastic_transform:elastic_transform", "an affine map, then smooth displacements"
    ),
    "sensor.frost": Entry("noise.corruptions.frost:frost", "a photograph of frost is laid over"),
    "sensor.fog": Entry("noise.corruptions.fog:fog", "a bright plasma fractal is added"),
    "sensor.gaussian_blur": Entry("noise.corruptions.gaussian_blur:gaussian_blur", "a Gaussian, cut off at 4 sigma"),
    "sensor.gaussian_noise": Entry("noise.corruptions.gaussian_noise:gaussian_noise", "normal noise"),
    "sensor.glass_blur": Entry("noise.corruptions.glass_blur:glass_blur", "pixels are copied from nearby"),
    "sensor.impulse_noise": Entry("noise.corruptions.impulse_noise:impulse_noise", "salt and pepper"),
    "sensor.jpeg_compression": Entry("noise.corruptions.jpeg_compression:jpeg_compression", "one more JPEG round trip"),
    "sensor.motion_blur": Entry("noise.corruptions.motion_blur:motion_blur", "a fading straight streak"),
    "sensor.pixelate": Entry("noise.corruptions.pixelate:pixelate", "reduced and enlarged with a box filter"),
    "sensor.procedural_frost": Entry(
        "noise.corruptions.procedural_frost:procedural_frost", "ice crystals drawn from noise are laid over"
    ),
    "sensor.saturate": Entry("noise.corruptions.saturate:saturate", "the HSV saturation is scaled and raised"),
    "sensor.shot_noise": Entry("noise.corruptions.shot_noise:shot_noise", "Poisson counts of photons"),
    "sensor.snow": Entry("noise.corruptions.snow:snow", "a whitened picture behind streaks of flakes"),
    "sensor.spatter": Entry("noise.corruptions.spatter:spatter", "blurred noise above a threshold is liquid"),
    "sensor.speckle_noise": Entry("noise.corruptions.speckle_noise:speckle_noise", "normal noise times the value"),
    "sensor.zoom_blur": Entry("noise.corruptions.zoom_blur:zoom_blur", "the mean of the picture and its zooms"),
    "normalise.float32": Entry("noise.normalise:float32", "(x / scale - mean) / std in float32"),
    "normalise.float16": Entry("noise.normalise:float16", "the same formula in half precision"),
    "normalise.integer": Entry("noise.normalise:integer", "a whole mean and a float16 factor, as uint8-fed engines do"),
    "normalise.quantised": Entry("noise.normalise:quantised", "float32, rounded to the codes of an integer input"),
    "layout.nchw": Entry("noise.layout:nchw", "planes, as most exported networks expect"),
    "layout.nhwc": Entry("noise.layout:nhwc", "interleaved channels, as mobile networks expect"),
}

# noise -> a mapping: setting -> the step that the noise puts into the pipeline, or the change that makes one of it
NOISES = {
    "clean": Entry("noise.base:CLEAN", "the pipeline exactly as the artifact declares it"),
    "gaussian_noise": Entry("noise.corruptions.gaussian_noise:SETTINGS", "sensor noise in low light"),
    "shot_noise": Entry("noise.corruptions.shot_noise:SETTINGS", "few photons, each counted"),
    "impulse_noise": Entry("noise.corruptions.impulse_noise:SETTINGS", "dead and hot pixels, bit errors"),
    "defocus_blur": Entry("noise.corruptions.defocus_blur:SETTINGS", "a lens out of focus"),
    "glass_blur": Entry("noise.corruptions.glass_blur:SETTINGS", "frosted glass, ice on a window"),
    "motion_blur": Entry("noise.corruptions.motion_blur:SETTINGS", "the camera moves while the shutter is open"),
    "zoom_blur": Entry("noise.corruptions.zoom_blur:SETTINGS", "the camera closes in while the shutter is open"),
    "snow": Entry("noise.corruptions.snow:SETTINGS", "falling flakes before a white scene"),
    "frost": Entry("noise.corruptions.frost:SETTINGS", "ice crystals on the lens", stand_in="procedural_frost"),
    "procedural_frost": Entry("noise.corruptions.procedural_frost:SETTINGS", "frost without ImageNet-C's overlays"),
    "fog": Entry("noise.corruptions.fog:SETTINGS", "clouds of many scales"),
    "brightness": Entry("noise.corruptions.brightness:SETTINGS", "over-exposure, daylight changes"),
    "contrast": Entry("noise.corruptions.contrast:SETTINGS", "haze, a dirty lens, a dull display"),
    "elastic_transform": Entry("noise.corruptions.elastic_transform:SETTINGS", "stretched and bent shapes"),
    "pixelate": Entry("noise.corruptions.pixelate:SETTINGS", "a small picture shown large"),
    "jpeg_compression": Entry("noise.corruptions.jpeg_compression:SETTINGS", "a lossy camera or network"),
    "speckle_noise": Entry("noise.corruptions.speckle_noise:SETTINGS", "noise that grows with the signal"),
    "gaussian_blur": Entry("noise.corruptions.gaussian_blur:SETTINGS", "a soft lens, a strong denoiser"),
    "spatter": Entry("noise.corruptions.spatter:SETTINGS", "water or mud on the lens"),
    "saturate": Entry("noise.corruptions.saturate:SETTINGS", "faded or glaring colours"),
    "decode": Entry("noise.decode:SETTINGS", "another decoder than in training"),
    "colour": Entry("noise.colour:SETTINGS", "a camera's colour format, or channels in the wrong order"),
    "resize": Entry("noise.resize:SETTINGS", "another resize library or filter than in training"),
    "resize_square": Entry("noise.resize:SQUARE_SETTINGS", "the same resizes to a square, as in ImageNet-S"),
    "resize_shorter_side": Entry("noise.resize:SHORTER_SIDE_SETTINGS", "the same resizes of the shorter side"),
    "crop": Entry("noise.crop:SETTINGS", "another part or shape of the picture than in training"),
    "normalise": Entry("noise.normalise:SETTINGS", "the same formula in other arithmetic"),
    "imagenet_s": Entry("noise.imagenet_s:SETTINGS", "three decoders times eleven resizes to a square"),
    "layout": Entry("noise.layout:SETTINGS", "memory in the other order than the network was exported for"),
}
