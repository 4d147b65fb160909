"""The floors: imports go down only, wherever in a file they stand, and heavy packages stay in leaf modules."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# What each floor may import of the project, itself included.
MAY_IMPORT = {
    "noise": {"noise"},
    "engines": {"engines"},
    "exporters": {"exporters", "engines", "noise"},
    "harness": {"harness", "exporters", "engines", "noise"},
    "benchmarks": {"benchmarks", "harness", "exporters", "engines", "noise"},
}
FLOORS = set(MAY_IMPORT) | {"tests"}

# Packages beyond the base, and the only modules that may import them. A name that ends in / is a whole folder.
HEAVY = {
    "onnxruntime": {
        "benchmarks/script.py",
        "engines/nbits_probe.py",
        "engines/ort.py",
        "engines/ort_certificate.py",
        "engines/ort_cuda.py",
        "engines/ort_network.py",
        "engines/ort_tensorrt.py",
        "exporters/calibration.py",
        "exporters/export.py",
        "exporters/folding.py",
        "exporters/qdq.py",
        "exporters/tapped.py",
        "exporters/targets.py",
        "harness/demo/train.py",
    },
    "torch": {
        "benchmarks/attacks.py",
        "benchmarks/script.py",
        "benchmarks/vit.py",
        "exporters/export.py",
        "exporters/qat/",
        "exporters/sources/",
        "exporters/trace.py",
        "exporters/twin/",
        "harness/adversarial/twins.py",
        "harness/demo/train.py",
        "noise/adversarial/gradient/",
        "noise/decode_torchvision.py",
        "noise/resize_torch.py",
    },
    "torchvision": {"benchmarks/attacks.py", "exporters/sources/", "noise/decode_torchvision.py"},
    "foolbox": {"benchmarks/attacks.py"},
    "torchattacks": {"benchmarks/attacks.py"},
    "timm": {"exporters/sources/"},
    "safetensors": {"exporters/sources/"},
    "huggingface_hub": {"exporters/sources/"},
    "onnxscript": {"exporters/simplify.py"},
    "av": {"noise/decode_ffmpeg.py"},
    "simplejpeg": {"noise/decode_simplejpeg.py"},
    "tensorrt": {"engines/trt/library.py"},
    "pycuda": {"engines/cuda/pycuda.py"},
    "cuda": {"engines/cuda/bindings.py"},
    "ray": {"harness/cluster.py"},
    "fsspec": {"harness/sources/storage.py"},
    "ai_edge_litert": {"engines/litert/graph.py"},
    "openvino": {"engines/openvino.py", "engines/openvino_certificate.py"},
}
FORBIDDEN_NAMES = {"utils.py", "common.py", "helpers.py"}
# noise is for pictures alone. Which of its files may import torch, HEAVY says.
NOT_IN_NOISE = {"onnx", "onnxruntime"}


def sources(floor: str) -> list[Path]:
    return sorted((ROOT / floor).rglob("*.py"))


def imported(source: str) -> Iterator[str]:
    """Top-level names of everything that a source imports, inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]


def violations(floor: str, source: str) -> set[str]:
    return {name for name in imported(source) if name in FLOORS and name not in MAY_IMPORT[floor]}


@pytest.mark.parametrize("floor", MAY_IMPORT)
def test_imports_go_down_only(floor: str) -> None:
    assert sources(floor)
    for path in sources(floor):
        assert not violations(floor, path.read_text()), f"{path} imports upwards"


def test_an_upward_import_inside_a_function_would_be_seen() -> None:
    assert violations("engines", "def f():\n    from harness.plan import plan\n") == {"harness"}
    assert violations("noise", "import engines.base") == {"engines"}
    assert violations("exporters", "import noise.base") == set()


@pytest.mark.parametrize("package", HEAVY)
def test_heavy_packages_are_imported_by_leaf_modules_only(package: str) -> None:
    users = {
        path.relative_to(ROOT).as_posix()
        for floor in MAY_IMPORT
        for path in sources(floor)
        if package in set(imported(path.read_text()))
    }
    folders = {name for name in HEAVY[package] if name.endswith("/")}
    modules = {user for user in users if not user.startswith(tuple(folders))}
    assert modules == HEAVY[package] - folders


def test_noise_needs_only_pictures() -> None:
    for path in sources("noise"):
        if "adversarial" not in path.parts:
            assert not NOT_IN_NOISE & set(imported(path.read_text())), path


def test_every_file_is_about_one_concept() -> None:
    for floor in MAY_IMPORT:
        for path in sources(floor):
            assert path.name not in FORBIDDEN_NAMES
            assert len(path.read_text().splitlines()) <= 400, f"{path} is long enough to be two concepts"


def test_functions_are_short_and_take_few_parameters() -> None:
    for floor in MAY_IMPORT:
        for path in sources(floor):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef):
                    lines = (node.end_lineno or node.lineno) - node.lineno + 1
                    arguments = len(node.args.args) + len(node.args.kwonlyargs)
                    assert lines <= 60, f"{path}: {node.name} has {lines} lines"
                    assert arguments <= 7, f"{path}: {node.name} has {arguments} parameters"
                    assert node.args.kwarg is None, f"{path}: {node.name} takes **{node.args.kwarg}"
