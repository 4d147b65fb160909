"""Make the .tflite files of this folder from the tiny network of `tests.engines.tiny`, with its weights.

Needs TensorFlow, which nothing else does; the files were made by 2.21.0: ``python -m tests.engines.litert.make_files``
from the repository's root, with ``pip install tensorflow onnx``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from onnx import numpy_helper

from tests.engines.tiny import CLASSES, SIZE, pictures, tensor, tiny

FOLDER = Path(__file__).parent
WEIGHTS = {each.name: numpy_helper.to_array(each) for each in tiny().graph.initializer}

Layers = Callable[[Any], Any]


def convolution(values: Any, number: int, stride: int) -> Any:
    padded = tf.pad(values, [[0, 0], [1, 1], [1, 1], [0, 0]])
    kernel = WEIGHTS[f"w{number}"].transpose(2, 3, 1, 0)
    return tf.nn.bias_add(tf.nn.conv2d(padded, kernel, stride, "VALID"), WEIGHTS[f"b{number}"])


def scores(values: Any) -> Any:
    """`tests.engines.tiny.tiny` on [N, 32, 32, 3]."""
    first = tf.nn.relu(convolution(values, 1, 2))
    second = tf.nn.relu(convolution(first, 2, 1) + first)
    return tf.matmul(tf.reduce_mean(second, [1, 2]), WEIGHTS["w3"].T) + WEIGHTS["b3"]


def probabilities(values: Any) -> Any:
    """The same with a softmax behind it."""
    return tf.nn.softmax(scores(values))


def planes(values: Any) -> Any:
    """The same on [N, 3, 32, 32]."""
    return scores(tf.transpose(values, [0, 2, 3, 1]))


def wide(values: Any) -> Any:
    """Two matrix products, the last with so many weights that the converter stores them as integers."""
    hidden = tf.matmul(tf.reduce_mean(values, [1, 2]), numpy_helper.to_array(tensor("w", 3, 128, seed=7)))
    return tf.matmul(tf.nn.relu(hidden), numpy_helper.to_array(tensor("w", 128, CLASSES, seed=8)))


def converter(layers: Layers, *shape: int | None) -> Any:
    """A converter for a function of one input of this shape."""
    function = tf.function(layers, input_signature=[tf.TensorSpec(shape, tf.float32, "x")])
    return tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()])


def integer_converter(layers: Layers, kind: Any) -> Any:
    """A converter to integers throughout, its input and output too."""
    made = converter(layers, None, SIZE, SIZE, 3)
    made.optimizations = [tf.lite.Optimize.DEFAULT]
    made.representative_dataset = calibration
    made.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    made.inference_input_type = made.inference_output_type = kind
    return made


def calibration() -> Iterator[list[Any]]:
    for seed in range(16):
        yield [np.ascontiguousarray(pictures(1, seed).transpose(0, 2, 3, 1))]


def main() -> None:
    rows = (None, SIZE, SIZE, 3)
    weights_alone = converter(wide, *rows)
    weights_alone.optimizations = [tf.lite.Optimize.DEFAULT]
    files = {
        "planes": converter(planes, None, 3, SIZE, SIZE),
        "rows": converter(scores, *rows),
        "two-pictures": converter(planes, 2, 3, SIZE, SIZE),
        "softmax": converter(probabilities, *rows),
        "softmax-uint8": integer_converter(probabilities, tf.uint8),
        "uint8": integer_converter(scores, tf.uint8),
        "int8": integer_converter(scores, tf.int8),
        "weights-alone": weights_alone,
    }
    for name, each in files.items():
        (FOLDER / f"{name}.tflite").write_bytes(each.convert())


if __name__ == "__main__":
    main()
