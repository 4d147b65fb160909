"""Make ``aimet.onnx``: the tiny network of `tests.engines.tiny`, quantised by AIMET and exported as Q/DQ.

Made with aimet-onnx 2.42.0: ``python -m tests.engines.others.make_aimet`` from the repository's root.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from aimet_onnx import int8
from aimet_onnx.quantsim import QuantizationSimModel

from tests.engines.tiny import pictures, tiny

FOLDER = Path(__file__).parent


def main() -> None:
    simulation = QuantizationSimModel(tiny(), param_type=int8, activation_type=int8, providers=["CPUExecutionProvider"])
    simulation.compute_encodings([{"x": pictures(1, seed)} for seed in range(16)])
    onnx.save(simulation.to_onnx_qdq(), str(FOLDER / "aimet.onnx"))


if __name__ == "__main__":
    main()
