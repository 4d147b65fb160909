"""How a network of PyTorch is written as ONNX. Apart from the writing itself, which needs PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from exporters.base import ExportError

CURRENT, OLDER = "dynamo", "torchscript"
EXPORTERS = (CURRENT, OLDER)


@dataclass(frozen=True)
class ExportOptions:
    """How a network is written.

    Args:
        opset: version of ONNX's operators.
        exporter: one of `EXPORTERS`: PyTorch's current exporter, by ``torch.export``, or its older one, by
            ``torch.jit.trace``.
        classes: outputs that the network must have; 0 for any number.
        bake: the file takes levels, uint8 [N, H, W, 3], and normalises them itself.
        seed: of the random levels that both forms are compared on.
    """

    opset: int
    exporter: str = CURRENT
    classes: int = 0
    bake: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.exporter not in EXPORTERS:
            raise ExportError(f"exporter: expected {' or '.join(EXPORTERS)}; got {self.exporter!r}")
        if not 13 <= self.opset <= 20:
            raise ExportError(f"opset: expected 13 to 20; got {self.opset}")
