"""Make ``torchao.onnx``: the tiny network of `tests.engines.tiny`, quantised by PT2E and exported as Q/DQ.

Made with torchao 0.18.0 and torch 2.14.0: ``python -m tests.engines.others.make_torchao`` from the repository's root.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
    X86InductorQuantizer,
    get_default_x86_inductor_quantization_config,
)

from tests.engines.others.tiny_torch import Tiny
from tests.engines.tiny import SIZE, pictures

FOLDER = Path(__file__).parent


def main() -> None:
    example = (torch.zeros(2, 3, SIZE, SIZE),)
    dynamic = {"x": {0: torch.export.Dim("N")}}
    graph = torch.export.export(Tiny().eval(), example, dynamic_shapes=dynamic).module()
    quantizer = X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(graph, quantizer)
    for seed in range(16):
        prepared(torch.from_numpy(pictures(2, seed)))
    converted = convert_pt2e(prepared)
    program = torch.onnx.export(
        converted, example, dynamo=True, opset_version=18, input_names=["x"], output_names=["y"], dynamic_shapes=dynamic
    )
    model = program.model_proto
    del model.graph.metadata_props[:]
    for each in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del each.metadata_props[:]  # the exporter's notes on which lines of which files a node comes from
    onnx.save(model, FOLDER / "torchao.onnx")


if __name__ == "__main__":
    main()
