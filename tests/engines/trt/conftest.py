"""Fixtures: TensorRT's double in the place of the package, and a GPU that the driver's double answers for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import engines.trt
from engines.artifact import Artifact, write_sidecar
from engines.building import BuildOptions
from engines.cuda.device import Device
from engines.onnx_file import artifact_from_onnx
from tests.engines.trt.double import Behaviour, tensorrt_double
from tests.engines.trt.draft import CHANNELS, Draft

CLASSES = ("cat", "dog", "fox", "owl")
DEFAULT = BuildOptions()
DEVICE = Device("NVIDIA Double 9000", "9.0", "13.0", "580.95.05")
# Modules that hold on to the package that was there when they were imported.
BOUND = ("library", "build", "plan", "engine")

Install = Callable[..., Behaviour]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts the double of a version in place: ``install("8.6", Behaviour(starts=False), device)``."""

    def put(version: str, behaviour: Behaviour | None = None, device: Device = DEVICE) -> Behaviour:
        chosen = behaviour or Behaviour()
        forget()
        monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_double(version, chosen))
        for name in ("build", "plan", "engine"):
            monkeypatch.setattr(module(name), "first_device", lambda: device)
        return chosen

    yield put
    forget()


@pytest.fixture
def quantised(tmp_path: Path) -> Artifact:
    """A Q/DQ classifier for TensorRT, with everything that a sidecar may declare."""
    draft = Draft()
    draft.node("Conv", ["x", draft.constant("spread", np.ones((CHANNELS, 3, 1, 1), np.float32))], "stem")
    draft.conv(draft.pair("stem", "stem_q"), "conv")
    draft.node("ReduceMean", ["conv", draft.constant("axes", np.array([2, 3]))], "y", keepdims=0)
    model = draft.model()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 3
    shape = model.graph.output[0].type.tensor_type.shape
    del shape.dim[:]
    shape.dim.extend(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CHANNELS]).type.tensor_type.shape.dim)
    path = tmp_path / "m.onnx"
    onnx.save(model, str(path))
    artifact = replace(
        artifact_from_onnx(path),
        preprocessing=({"stage": "decode", "name": "pillow", "params": {}},),
        classes=CLASSES,
        made_by={"tool": "a test"},
    )
    write_sidecar(artifact)
    return artifact


def build(artifact: Artifact, options: BuildOptions = DEFAULT, on_step: Any = lambda *_: None) -> Any:
    """``m.plan`` beside the file, by the double that is in place."""
    return module("build").plan_from_onnx(artifact, artifact.path.with_name("m.plan"), options, on_step)


def forget() -> None:
    """Have the wrapper's modules imported anew, with the package that is in place then."""
    for name in BOUND:
        sys.modules.pop(f"engines.trt.{name}", None)
        vars(engines.trt).pop(name, None)


def module(name: str) -> ModuleType:
    """A module of the wrapper, bound to the double that is in place."""
    return importlib.import_module(f"engines.trt.{name}")
