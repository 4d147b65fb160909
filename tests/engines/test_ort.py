"""What ONNX Runtime may do behind an engine's back, or fail at: every such case is an `EngineError`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines.base import EngineError, EngineOptions, call
from engines.onnx_file import artifact_from_onnx
from engines.ort import open_cpu, session_options
from engines.ort_certificate import certify_cpu
from tests.engines.tiny import SIZE, model_of, pictures, tiny_artifact


def test_failure_inside_a_run_names_the_file(tmp_path: Path) -> None:
    """A network that promises any batch, and holds a Reshape for one picture."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
        helper.make_node("Reshape", ["pooled", "one_row"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    model = model_of(
        nodes,
        [value("x", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
        [value("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(np.array([1, 3], np.int64), "one_row")],
    )
    path = tmp_path / "one_row.onnx"
    onnx.save(model, str(path))
    engine = open_cpu(artifact_from_onnx(path), EngineOptions())
    assert call(engine, {"x": pictures(1)}).outputs["y"].shape == (1, 3)
    with pytest.raises(EngineError, match=r"ONNX Runtime failed on one_row\.onnx: .*Reshape"):
        call(engine, {"x": pictures(2)})


class FallsBack:
    """A session that runs elsewhere than it was asked to."""

    def __init__(self, *_: Any, providers: list[str]) -> None:
        del providers

    def get_providers(self) -> list[str]:
        return ["AnotherExecutionProvider"]


def test_silent_fall_back_to_another_provider_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = tiny_artifact(tmp_path)
    monkeypatch.setattr("engines.ort.ort.InferenceSession", FallsBack)
    with pytest.raises(EngineError, match=r"asked ONNX Runtime for CPU.*got \['Another.*it fell back in silence"):
        open_cpu(artifact, EngineOptions())


def test_node_on_another_provider_gets_no_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = [{"args": {"provider": name}} for name in ("CPUExecutionProvider", "AnotherExecutionProvider")]
    monkeypatch.setattr("engines.ort_certificate._profile", lambda *_: (onnx.ModelProto(), events))
    with pytest.raises(EngineError, match=r"nodes ran on \['AnotherExecutionProvider'\]"):
        certify_cpu(tiny_artifact(tmp_path), EngineOptions(), {"x": pictures(1)})


def test_options_reach_the_session() -> None:
    assert session_options(EngineOptions(threads=3)).intra_op_num_threads == 3
    assert session_options(EngineOptions()).graph_optimization_level.name == "ORT_ENABLE_ALL"


def test_simulation_keeps_to_optimisations_that_keep_the_bits() -> None:
    simulated = session_options(EngineOptions(integer_kernels=False))
    assert simulated.graph_optimization_level.name == "ORT_ENABLE_BASIC"
    assert simulated.get_session_config_entry("session.disable_quant_qdq") == "1"
