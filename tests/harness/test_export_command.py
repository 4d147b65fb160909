"""``qharness export`` from end to end, and the file that it makes of real weights."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper

from engines.onnx_file import artifact_from_onnx
from harness.cli import main
from harness.demo.embedded import demo_recipe
from harness.export import classes_from_option
from harness.progress import Progress
from harness.recipe import Recipe
from harness.session import execute
from harness.speed import Speed
from tests.conftest import missing
from tests.exporters.networks import Small

SMALL = ["python:tests.exporters.networks:Small", "--preprocess", "imagenet", "--size", "64"]


@pytest.fixture(autouse=True, scope="module")
def _exporter(request: pytest.FixtureRequest) -> None:
    if find_spec("onnxscript") is None:
        missing(request, "torch", "PyTorch's exporter needs onnxscript: pip install 'qharness[torch]'")


def test_a_file_is_written_and_shown_to_be_the_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "m.onnx"
    words = ["--bake", "--for", "tensorrt", "--data", demo_recipe().calibrate, "-o", str(output)]
    assert main(["export", *SMALL, *words]) == 0
    said = capsys.readouterr().out
    assert said.count("passed") == 4
    assert "uint8 [N, 64, 64, 3] to 5 classes, opset 17 by dynamo" in said
    assert "note: the network was in train mode" in said
    assert artifact_from_onnx(output).input.dtype == "uint8"


def test_an_exported_file_runs_as_it_is(tmp_path: Path) -> None:
    """Sixteen classes, by name, of a checkpoint: the whole way to a report."""
    names = sorted(folder.name for folder in Path(demo_recipe().data).iterdir())
    (tmp_path / "names.txt").write_text("\n".join(names))
    torch.manual_seed(0)
    torch.save({"state_dict": Small(len(names)).state_dict()}, tmp_path / "best.pt")
    (tmp_path / "mine.py").write_text(
        f"from tests.exporters.networks import Small\n\ndef sixteen():\n    return Small({len(names)})\n"
    )
    words = ["--arch", "python:mine:sixteen", "--preprocess", "unit", "--size", "64"]
    words += ["--classes", str(tmp_path / "names.txt")]
    sys.path.insert(0, str(tmp_path))
    try:
        output = ["-o", str(tmp_path / "m.onnx")]
        assert main(["export", f"checkpoint:{tmp_path / 'best.pt'}", *words, *output]) == 0
    finally:
        sys.path.remove(str(tmp_path))
    assert artifact_from_onnx(tmp_path / "m.onnx").classes == tuple(names)
    recipe = Recipe(model=str(tmp_path / "m.onnx"), data=demo_recipe().data, noise=("clean",), limit=16)
    report = execute(recipe, tmp_path / "run", Speed(workers=0), Progress())
    assert (report.pictures, report.failed_pictures) == (16, 0)


def test_a_failed_parity_shows_its_numbers_and_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["python:tests.exporters.networks:Undecided", "--size", "64", "--exporter", "torchscript"]
    assert main(["export", *words, "-o", str(tmp_path / "m.onnx")]) == 2
    said = capsys.readouterr()
    assert "FAILED" in said.out
    assert "the older exporter took 1 values that it saw for constants, the first in exporters/networks.py" in said.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--for", "tensorflow"], "there is no target 'tensorflow'; did you mean 'tensorrt'?"),
        (["--exporter", "dynamite"], "exporter: expected dynamo or torchscript; got 'dynamite'"),
        (["--preprocess", "imagnet"], "there is no preset 'imagnet'; did you mean 'imagenet'?"),
        (["--classes", "nowhere.txt"], "--classes takes a number, or a file"),
        (["--data", "nowhere"], "nowhere"),
        (["--size", "-1"], "--size is a number of pixels"),
    ],
)
def test_wrong_options_are_refused(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", *SMALL, *words, "-o", str(tmp_path / "m.onnx")]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_names_of_classes_are_read_in_utf_8_and_no_other_encoding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "names.txt"
    file.write_bytes("\ufeffKätzchen\r\n犬\n".encode())
    assert classes_from_option(str(file)) == ("Kätzchen", "犬")
    file.write_bytes("Kätzchen".encode("latin-1"))
    assert main(["export", *SMALL, "--classes", str(file), "-o", str(tmp_path / "m.onnx")]) == 2
    assert "names.txt is not text in UTF-8: " in capsys.readouterr().err


def test_output_that_is_no_onnx_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("m.json", "nowhere/m.onnx"):
        assert main(["export", *SMALL, "-o", str(tmp_path / name)]) == 2
        assert "-o names the new file, FILE.onnx in a folder that exists" in capsys.readouterr().err


@pytest.mark.slow
def test_resnet18_from_its_weights_is_as_accurate_as_the_file_that_they_are_from(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = real_data / "models" / "resnet18.onnx"
    state = {
        each.name: torch.from_numpy(numpy_helper.to_array(each).copy()) for each in onnx.load(source).graph.initializer
    }
    torch.save(state, tmp_path / "resnet18.pt")
    checkpoint = f"checkpoint:{tmp_path / 'resnet18.pt'}"
    pictures = str(real_data / "imagenet" / "photos")
    output = tmp_path / "m.onnx"
    words = ["--arch", "torchvision:resnet18", "--data", pictures, "-o", str(output)]
    assert main(["export", checkpoint, *words]) == 0
    assert "assumed to be that of the published weights ResNet18_Weights.IMAGENET1K_V1;" in capsys.readouterr().out
    right = []
    for name, model, preset in (("ours", output, ""), ("theirs", source, "imagenet")):
        recipe = Recipe(
            model=str(model),
            data=pictures,
            calibrate=str(real_data / "imagenet" / "val227"),
            preprocess=preset,
            noise=("clean",),
            engines=("ort-cpu:fp32",),
            limit=100,
        )
        report = execute(recipe, tmp_path / name, Speed(), Progress())
        assert (report.pictures, report.failed_pictures) == (100, 0)
        assert report.clean is not None
        right.append((report.clean.accuracy["ort-cpu:fp32"].value or 0) * report.pictures)
    assert abs(right[0] - right[1]) <= 1
    assert right[0] > 60
