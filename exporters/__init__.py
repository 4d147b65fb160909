"""Exporters: from a network to the file that an engine runs.

`exporters.calibration` measures ranges once, by a method of `METHODS`; `exporters.qdq` writes them as Q/DQ nodes for a
target of `TARGETS`, and `exporters.improve` helps by rows of `IMPROVEMENTS`. `exporters.operators` writes a model as
another runtime computes it, by a variant of `VARIANTS`. `exporters.export` writes a network of PyTorch, from a source
of `MODELS`, as ONNX; `exporters.qat` trains a file with its rounding on, by a method of `TRAINED`. A new method,
improvement or source is one new file in its folder and one row; a new target and a new variant are one row.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["IMPROVEMENTS", "METHODS", "MODELS", "TARGETS", "TRAINED", "VARIANTS", "Entry"]


class Entry(NamedTuple):
    """One row: where the function is, what it makes, and the extra of qharness that it needs."""

    target: str
    about: str
    extra: str | None = None


# name -> a function of at most one number that makes an `exporters.base.Observer`; a name may be given with its number,
# "percentile:99.9"
METHODS = {
    "minmax": Entry("exporters.ranges.minmax:MinMax", "everything that was seen"),
    "moving-average": Entry(
        "exporters.ranges.moving_average:MovingAverage",
        "moving averages of each picture's extremes; share of the newest",
    ),
    "percentile": Entry("exporters.ranges.percentile:Percentile", "the middle N percent of all values"),
    "entropy": Entry("exporters.ranges.entropy:Entropy", "least information lost (Kullback-Leibler), as TensorRT"),
    "mse": Entry("exporters.ranges.mean_squared_error:MeanSquaredError", "least mean squared error, by grid search"),
}

# name -> a function that makes an `exporters.targets.Target`
TARGETS = {
    "ort-cpu": Entry("exporters.targets:ort_cpu", "ONNX Runtime and OpenVINO on the CPU: U8S8", "cpu"),
    "ort-cuda": Entry(
        "exporters.targets:ort_cuda", "ONNX Runtime on CUDA: S8S8; convolutions run in float there", "gpu"
    ),
    "tensorrt": Entry("exporters.targets:tensorrt", "TensorRT 8.6 to 11: symmetric S8S8, Q/DQ on weights", "cpu"),
    "simulated": Entry("exporters.targets:simulated", "fake quantisation in float, on any runtime: U8S8", "cpu"),
}

# name -> a function of at most one number that makes an `exporters.improvements.base.Improvement`; a name may be given
# with its number, "smooth-quant:0.5". Several are applied in this order.
IMPROVEMENTS = {
    "cross-layer-equalisation": Entry(
        "exporters.improvements.equalisation:CrossLayerEqualisation",
        "neighbouring convolutions share the sizes of their channels",
        "cpu",
    ),
    "smooth-quant": Entry(
        "exporters.improvements.smooth_quant:SmoothQuant",
        "large channels behind a LayerNormalization move into the weights; the share that moves",
        "cpu",
    ),
    "adaround": Entry(
        "exporters.improvements.adaround:AdaRound",
        "each weight is rounded up or down for its layer's output; steps of descent",
        "cpu",
    ),
    "bias-correction": Entry(
        "exporters.improvements.bias_correction:BiasCorrection",
        "biases take up the mean error of each channel",
        "cpu",
    ),
}

# name -> an `exporters.operators.Rewrite`
VARIANTS = {
    "ceil-mode": Entry("exporters.operators:ceil_mode", "pooling windows reach over the border, or no longer"),
    "include-padding": Entry("exporters.operators:include_padding", "padding counts in a mean, or no longer"),
    "upsampling": Entry("exporters.operators:upsampling", "nearest becomes linear, all else nearest"),
    "folded-mean": Entry("exporters.operators:folded_mean", "the first convolution normalises"),
}

# name -> `exporters.sources.base.Load`
MODELS = {
    "torchvision": Entry("exporters.sources.torchvision:load", "a classifier of torchvision: NAME[@WEIGHTS]", "torch"),
    "timm": Entry("exporters.sources.timm:load", "a classifier of timm: NAME[.WEIGHTS]", "timm"),
    "checkpoint": Entry("exporters.sources.checkpoint:load", "weights in a file, for the network of --arch", "torch"),
    "python": Entry("exporters.sources.python:load", "what a function of yours returns: MODULE:FACTORY", "torch"),
}

# name -> an `exporters.qat.base.Method`
TRAINED = {
    "lsq": Entry("exporters.qat.lsq:METHOD", "the steps are learned along with the weights", "torch"),
    "pact": Entry("exporters.qat.pact:METHOD", "where activations are clipped is learned; weights as dorefa", "torch"),
    "dorefa": Entry(
        "exporters.qat.dorefa:METHOD", "weights squashed by tanh, activations clipped at a constant", "torch"
    ),
}
