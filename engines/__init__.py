"""Engines: what runs a network, behind one small seam.

An engine knows nothing of pictures, noise or labels. It is opened from an `engines.artifact.Artifact`, offers
``run``, ``facts`` and ``close`` (`engines.base.Engine`), and says by what it reads back from the live object
which provider and kernels it really uses. A new engine is one new file and one row here.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["BUILDERS", "ENGINES", "FORMATS", "LINTERS", "Builder", "Entry", "Format"]


class Entry(NamedTuple):
    """One row.

    Args:
        target: ``module:function``, an `engines.base.OpenEngine`.
        about: one line for ``qharness doctor``.
        extra: the extra of qharness that installs what the module imports.
        certify: ``module:function``, an `engines.certificate.Certify`: proves which kernels ran.
        quantised_for: row of `exporters.TARGETS` whose INT8 file suits it; "" where it runs no ONNX file.
        simulates: whether its integer kernels can be switched off.
        formats: rows of `FORMATS` that it runs.
    """

    target: str
    about: str
    extra: str
    certify: str
    quantised_for: str
    simulates: bool = True
    formats: tuple[str, ...] = ("onnx",)


class Format(NamedTuple):
    """One row: a kind of model file.

    Args:
        target: ``module:function``, an `engines.artifact.ReadModel`.
        about: what it is called in messages.
        extra: the extra of qharness that installs what the module imports, or ``None``.
        endings: of its files' names.
    """

    target: str
    about: str
    extra: str | None
    endings: tuple[str, ...]


class Builder(NamedTuple):
    """One row: how the plans of an engine are built.

    Args:
        target: ``module:function``, an `engines.building.BuildPlan`.
        compare: ``module:function``, an `engines.building.ComparePlans`.
        extra: the extra of qharness that installs what building imports.
    """

    target: str
    compare: str
    extra: str


# Processors that `engines.emulated` can stand in for; each is the engine ``ort-NAME``.
CPU_NAMES = ("haswell", "sandybridge", "nehalem")

# Kinds of model files -> how they are known and read.
FORMATS = {
    "onnx": Format("engines.onnx_file:artifact_from_onnx", "an ONNX file", None, (".onnx",)),
    "plan": Format("engines.trt.record:artifact_from_plan", "a plan", None, (".plan", ".engine")),
    "tflite": Format("engines.litert.file:artifact_from_tflite", "a TensorFlow Lite file", "litert", (".tflite",)),
}

ENGINES = {
    "ort-cpu": Entry(
        "engines.ort:open_cpu",
        "ONNX Runtime on the CPU; integer kernels of MLAS",
        "cpu",
        "engines.ort_certificate:certify_cpu",
        "ort-cpu",
    ),
    "ort-cuda": Entry(
        "engines.ort_cuda:open_cuda",
        "ONNX Runtime on an NVIDIA GPU; convolutions in float",
        "gpu",
        "engines.ort_cuda:certify_cuda",
        "ort-cuda",
    ),
    "ort-tensorrt": Entry(
        "engines.ort_tensorrt:open_tensorrt",
        "TensorRT inside ONNX Runtime; which kernels ran cannot be proved",
        "gpu",
        "engines.ort_tensorrt:certify_tensorrt",
        "tensorrt",
        simulates=False,
    ),
    "tensorrt": Entry(
        "engines.trt.engine:open_tensorrt",
        "TensorRT 8.6 to 11 on an NVIDIA GPU; integer kernels, built for one machine",
        "tensorrt",
        "engines.trt.engine:certify_tensorrt",
        "tensorrt",
        simulates=False,
        formats=("onnx", "plan"),
    ),
    "openvino": Entry(
        "engines.openvino:open_cpu",
        "OpenVINO on the CPU; integer kernels of oneDNN",
        "openvino",
        "engines.openvino_certificate:certify_cpu",
        "ort-cpu",
    ),
    "litert": Entry(
        "engines.litert.engine:open_cpu",
        "LiteRT on the CPU: .tflite files as they are, on kernels of XNNPACK",
        "litert",
        "engines.litert.certificate:certify_cpu",
        "",
        simulates=False,
        formats=("tflite",),
    ),
    "ort-haswell": Entry(
        "engines.emulated:open_haswell",
        "ONNX Runtime on an emulated Haswell: AVX2 kernels, as on an edge CPU without VNNI; slow",
        "cpu",
        "engines.emulated:certify_haswell",
        "ort-cpu",
    ),
    "ort-sandybridge": Entry(
        "engines.emulated:open_sandybridge",
        "ONNX Runtime on an emulated Sandy Bridge: SSE4 kernels, float with AVX; slow",
        "cpu",
        "engines.emulated:certify_sandybridge",
        "ort-cpu",
    ),
    "ort-nehalem": Entry(
        "engines.emulated:open_nehalem",
        "ONNX Runtime on an emulated Nehalem: SSE4 kernels alone, as on an Atom; slow",
        "cpu",
        "engines.emulated:certify_nehalem",
        "ort-cpu",
    ),
}

# Row of `exporters.TARGETS` -> ``module:function``, an `engines.lint.Lint`.
LINTERS = {"tensorrt": "engines.trt.lint:findings_from_onnx"}

# Engine whose files are built for one machine, and run on it alone -> how.
BUILDERS = {
    "tensorrt": Builder(
        "engines.trt.build:plan_from_onnx",
        "engines.trt.plan:layers_built_differently",
        "tensorrt",
    )
}
