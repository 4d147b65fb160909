"""Make ``brevitas-*.onnx``: the tiny network of `tests.engines.tiny` with fake quantisation, exported as QCDQ.

Made with brevitas 0.13.4 and torch 2.14.0: ``python -m tests.engines.others.make_brevitas`` from the repository's root.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import brevitas.nn as qnn
import torch
from brevitas.export import export_onnx_qcdq
from brevitas.graph.calibrate import calibration_mode
from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerChannelFloat, Uint8ActPerTensorFloat
from torch import nn

from tests.engines.others.tiny_torch import WEIGHTS
from tests.engines.tiny import SIZE, pictures

FOLDER = Path(__file__).parent


class Tiny(nn.Module):
    """`tests.engines.tiny.tiny` with the weights and activations of every layer quantised."""

    def __init__(self, weight_bits: int) -> None:
        super().__init__()
        layer = {
            "weight_quant": Int8WeightPerChannelFloat,
            "weight_bit_width": weight_bits,
            "return_quant_tensor": True,
        }
        self.entry = qnn.QuantIdentity(act_quant=Int8ActPerTensorFloat, return_quant_tensor=True)
        self.conv1 = qnn.QuantConv2d(3, 8, 3, 2, 1, **layer)
        self.conv2 = qnn.QuantConv2d(8, 8, 3, 1, 1, **layer)
        self.relu1 = qnn.QuantReLU(act_quant=Uint8ActPerTensorFloat, return_quant_tensor=True)
        self.sum = qnn.QuantIdentity(act_quant=Int8ActPerTensorFloat, return_quant_tensor=True)
        self.relu2 = qnn.QuantReLU(act_quant=Uint8ActPerTensorFloat, return_quant_tensor=True)
        self.pooled = qnn.QuantIdentity(act_quant=Uint8ActPerTensorFloat, return_quant_tensor=True)
        self.gemm = qnn.QuantLinear(8, 10, True, **{**layer, "return_quant_tensor": False})

    def forward(self, values: Any) -> Any:
        first = self.relu1(self.conv1(self.entry(values)))
        second = self.relu2(self.sum(self.conv2(first)) + self.sum(first))
        pooled = second.value if hasattr(second, "value") else second
        return self.gemm(self.pooled(pooled.mean((2, 3))))


def network(weight_bits: int) -> Tiny:
    """The network with its weights, its activations calibrated."""
    made = Tiny(weight_bits).eval()
    for number, layer in enumerate((made.conv1, made.conv2, made.gemm), start=1):
        layer.weight.data, layer.bias.data = WEIGHTS[f"w{number}"], WEIGHTS[f"b{number}"]
    with torch.no_grad(), calibration_mode(made):
        for seed in range(16):
            made(torch.from_numpy(pictures(1, seed)))
    return made


def main() -> None:
    for name, bits in (("brevitas", 8), ("brevitas-4-bits", 4)):
        export_onnx_qcdq(
            network(bits),
            args=torch.zeros(1, 3, SIZE, SIZE),
            export_path=str(FOLDER / f"{name}.onnx"),
            opset_version=13,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "N"}, "y": {0: "N"}},
            dynamo=False,
        )


if __name__ == "__main__":
    main()
