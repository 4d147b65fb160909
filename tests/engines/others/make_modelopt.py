"""Make ``modelopt.onnx`` and ``modelopt-torch.onnx``: the tiny network of `tests.engines.tiny`, quantised by ModelOpt.

Made with nvidia-modelopt 0.47.0 and torch 2.14.0: ``python -m tests.engines.others.make_modelopt`` from the
repository's root.
"""

from __future__ import annotations

from pathlib import Path

import modelopt.torch.quantization as mtq
import numpy as np
import torch
from modelopt.onnx.quantization import quantize
from torch import nn

from tests.engines.others.tiny_torch import Tiny
from tests.engines.tiny import SIZE, pictures, write_tiny

FOLDER = Path(__file__).parent


def calibrate(network: nn.Module) -> None:
    for seed in range(16):
        network(torch.from_numpy(pictures(1, seed)))


def main() -> None:
    with torch.no_grad():
        network = mtq.quantize(Tiny().eval(), mtq.INT8_DEFAULT_CFG, calibrate)
        torch.onnx.export(
            network,
            (torch.zeros(1, 3, SIZE, SIZE),),
            str(FOLDER / "modelopt-torch.onnx"),
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "N"}, "y": {0: "N"}},
            opset_version=17,
            dynamo=False,
        )
    source = write_tiny(FOLDER, name="float.onnx")
    quantize(
        str(source),
        quantize_mode="int8",
        calibration_data={"x": np.concatenate([pictures(1, seed) for seed in range(16)])},
        calibration_method="max",
        calibration_eps=["cpu"],
        output_path=str(FOLDER / "modelopt.onnx"),
        high_precision_dtype="fp32",
    )
    source.unlink()


if __name__ == "__main__":
    main()
