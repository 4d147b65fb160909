"""``calibrate`` and ``quantize`` as their user meets them, and what may be done with a calibration."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from engines.onnx_file import artifact_from_onnx
from exporters import METHODS, TARGETS
from exporters.base import read_calibration
from exporters.folding import folded_model
from exporters.qdq import layer_groups
from harness import cli
from harness.errors import HarnessError
from harness.plan import plan
from harness.prepare import prepare
from harness.progress import Progress
from harness.recipe import Recipe
from harness.report.build import Report

RunRecipe = Callable[..., Report]


@pytest.fixture
def ranges(small: Recipe, tmp_path: Path) -> Path:
    """Ranges of the demo network from the demo's calibration pictures."""
    path = tmp_path / "cal.json"
    assert cli.main(["calibrate", small.model, "--data", small.calibrate, "--method", "mse", "-o", str(path)]) == 0
    return path


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one message of a command that the user can mend."""
    capsys.readouterr()
    assert cli.main(arguments) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("method", [*METHODS, "percentile:99.9"])
def test_every_method_makes_a_calibration_that_says_what_it_is(small: Recipe, tmp_path: Path, method: str) -> None:
    path = tmp_path / "cal.json"
    arguments = ["calibrate", small.model, "--data", small.calibrate, "--method", method, "--pictures", "9"]
    assert cli.main([*arguments, "-o", str(path)]) == 0
    calibration = read_calibration(path)
    assert calibration.source.method == method
    assert calibration.model_sha256 == artifact_from_onnx(Path(small.model)).sha256
    assert len(calibration.source.pictures) == calibration.inputs == 9
    assert list(calibration.source.conditions) == ["clean"]


def test_calibrating_on_noise_changes_the_ranges_and_is_recorded(small: Recipe, ranges: Path, tmp_path: Path) -> None:
    path = tmp_path / "noisy.json"
    noise = "gaussian_noise:3,fog:2"
    arguments = ["calibrate", small.model, "--data", small.calibrate, "--method", "mse", "--noise", noise]
    assert cli.main([*arguments, "-o", str(path)]) == 0
    noisy, clean = read_calibration(path), read_calibration(ranges)
    assert list(noisy.source.conditions) == noise.split(",")
    assert noisy.inputs == 2 * clean.inputs
    assert noisy.ranges != clean.ranges


@pytest.mark.parametrize("target", TARGETS)
def test_one_calibration_serves_every_target(small: Recipe, ranges: Path, tmp_path: Path, target: str) -> None:
    path = tmp_path / "q.onnx"
    assert cli.main(["quantize", small.model, "--calibration", str(ranges), "--for", target, "-o", str(path)]) == 0
    made = artifact_from_onnx(path)
    assert made.quantised
    assert made.made_by["calibration"]["method"] == "mse"
    assert made.made_by["quantisation"]["target"] == target


def test_quantize_shows_which_kernels_run(
    small: Recipe, ranges: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["quantize", small.model, "--calibration", str(ranges), "-o", str(tmp_path / "q.onnx")]
    assert cli.main(arguments) == 0
    assert "100.00 % of" in capsys.readouterr().out
    assert cli.main([*arguments, "--keep-float", "*conv*,*Conv*"]) == 0
    assert "100.00 % of" not in capsys.readouterr().out


def test_a_run_takes_ranges_and_scores_every_picture(small: Recipe, ranges: Path, run_recipe: RunRecipe) -> None:
    recipe = replace(small, calibrate="", calibration=str(ranges), noise=("clean",))
    report = run_recipe(recipe)
    assert report.pictures == len(plan(replace(small, engines=("ort-cpu:fp32",))).scored.samples)
    assert report.identity["calibration"]["method"] == "mse"
    assert report.contenders["ort-cpu:integer"]["made_by"]["calibration"]["method"] == "mse"


def test_ranges_are_not_measured_twice(small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan(small)
    first = prepare(made, tmp_path, Progress())
    monkeypatch.setattr("harness.calibrate.calibrator", lambda: pytest.fail("measured again"))
    assert prepare(made, tmp_path, Progress()) == first
    (tmp_path / "shapes.int8.ort-cpu.onnx").unlink()
    assert prepare(made, tmp_path, Progress()) == first, "the ranges that are there were not used"


@pytest.mark.parametrize("change", [{"calibration_method": "entropy"}, {"weights": "per-tensor"}, {"seed": 3}])
def test_what_was_made_otherwise_is_made_again(small: Recipe, tmp_path: Path, change: dict[str, object]) -> None:
    first = prepare(plan(small), tmp_path, Progress())[-1].artifact
    second = prepare(plan(replace(small, **change)), tmp_path, Progress())[-1].artifact  # type: ignore[arg-type]
    assert first.made_by != second.made_by


def test_ranges_of_another_model_are_refused(
    small: Recipe, ranges: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(Path(small.model).read_bytes() + b"\x12\x01x")
    message = refusal(["quantize", str(other), "--calibration", str(ranges), "-o", str(tmp_path / "q.onnx")], capsys)
    assert "measured on another model" in message
    assert not (tmp_path / "q.onnx").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--preprocess", "tensorflow"], "measured behind another preprocessing"),
        (["--method", "entropy"], "measured by the method mse, not entropy"),
        (["--calibrate", "{data}"], "either pictures to calibrate on .* or ranges"),
        (["--for", "tensort"], "did you mean 'tensorrt'"),
        (["--weights", "per-chanel"], "expected one of per-channel, per-tensor; got 'per-chanel'"),
        (["--for", "tensorrt", "--activations", "asymmetric"], "symmetric activations only"),
        (["--keep-float", "nothing*"], r"no node is called 'nothing\*'"),
    ],
)
def test_wrong_use_of_ranges_is_refused(
    small: Recipe, ranges: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    arguments = ["quantize", small.model, "--calibration", str(ranges), "-o", str(tmp_path / "q.onnx")]
    text = refusal([*arguments, *(each.format(data=small.calibrate) for each in more)], capsys)
    assert re.search(message, text), text
    assert not (tmp_path / "q.onnx").exists()


def test_quantising_needs_ranges(small: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "give pictures with --calibrate" in refusal(["quantize", small.model, "-o", str(tmp_path / "q")], capsys)


def test_a_quantised_model_is_not_quantised_again(
    small: Recipe, ranges: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "q.onnx"
    assert cli.main(["quantize", small.model, "--calibration", str(ranges), "-o", str(path)]) == 0
    message = refusal(["quantize", str(path), "--calibrate", small.calibrate, "-o", str(tmp_path / "qq.onnx")], capsys)
    assert "q.onnx is quantised already; give the float model" in message


def test_calibration_pictures_that_are_scored_are_an_error_unless_allowed(
    small: Recipe, ranges: Path, tmp_path: Path, run_recipe: RunRecipe
) -> None:
    data = tmp_path / "data"
    shutil.copytree(small.data, data)
    stolen = next(Path(small.calibrate).glob("*/*.jpg"))
    shutil.copy(stolen, next(data.glob("*/")) / "stolen.jpg")
    recipe = replace(small, data=str(data), calibrate="", calibration=str(ranges), noise=("clean",))
    with pytest.raises(HarnessError, match=r"1 calibration pictures have the bytes.*calibration_overlap"):
        run_recipe(recipe)
    report = run_recipe(replace(recipe, calibration_overlap=True))
    assert "have the bytes of scored ones" in report.findings[0]["message"]


def test_three_pictures_are_taken_with_a_warning(
    small: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["calibrate", small.model, "--data", small.calibrate, "--pictures", "3"]
    assert cli.main([*arguments, "-o", str(tmp_path / "cal.json")]) == 0
    assert "calibrated on 3 pictures: ranges of so few are accidents" in capsys.readouterr().out


def test_layers_are_ranked_by_what_they_cost(
    small: Recipe, ranges: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["quantize", small.model, "--calibration", str(ranges), "--sensitivity", "--data", small.data]
    out = tmp_path / "layers.json"
    noise = "clean,gaussian_noise:3"
    assert cli.main([*arguments, "--noise", noise, "--limit", "12", "-o", str(out)]) == 0
    assert "Each layer quantised alone for ort-cpu" in capsys.readouterr().out
    layers = json.loads(out.read_text())
    assert {each["layer"] for each in layers} == set(layer_groups(artifact_from_onnx(Path(small.model))))
    for each in layers:
        assert list(each["costs"]) == noise.split(",")
        for cost in each["costs"].values():
            assert cost["difference"]["n"] == 12
            assert 0 < cost["distance"]["value"] < 0.5, f"{each['layer']} was not quantised, or ruined"
    means = [sum(cost["difference"]["value"] for cost in each["costs"].values()) for each in layers]
    assert means == sorted(means)


def test_a_layer_with_a_ruined_range_ranks_first(small: Recipe, ranges: Path, tmp_path: Path) -> None:
    """The ranking finds the layer whose input cannot be told apart any more."""
    groups = layer_groups(artifact_from_onnx(Path(small.model)))
    victim = list(groups)[3]
    stored = json.loads(ranges.read_text())
    folded = {node.name: node for node in folded_model(artifact_from_onnx(Path(small.model))).graph.node}
    stored["ranges"][folded[groups[victim][0]].input[0]] = [0.0, 1e4]
    ranges.write_text(json.dumps(stored))
    out = tmp_path / "layers.json"
    arguments = ["quantize", small.model, "--calibration", str(ranges), "--sensitivity", "--data", small.data]
    assert cli.main([*arguments, "-o", str(out)]) == 0
    assert json.loads(out.read_text())[0]["layer"] == victim


def test_sensitivity_scores_no_picture_that_was_calibrated_on(
    small: Recipe, ranges: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["quantize", small.model, "--calibration", str(ranges), "--sensitivity", "--data", small.calibrate]
    assert "calibration pictures would also be scored" in refusal(arguments, capsys)


@pytest.mark.parametrize(
    ("more", "kernels"),
    [
        ([], ["MatMulNBits   float x int4"]),
        (["--asymmetric", "--block", "64", "--rounding", "rtn"], ["MatMulNBits   float x int4"]),
        (["--calibrate", "{data}", "--rest", "int8"], ["MatMulNBits   float x int4", "QLinearConv   uint8 x int8"]),
    ],
)
def test_int4_weights_are_written_and_certified(
    small: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], kernels: list[str]
) -> None:
    path = tmp_path / "int4.onnx"
    options = [each.format(data=small.calibrate) for each in more]
    assert cli.main(["quantize", small.model, "--to", "int4", *options, "-o", str(path)]) == 0
    out = capsys.readouterr().out
    assert "1 layers with 4-bit weights" in out
    assert "no runtime has a 4-bit kernel for it" in out
    for kernel in kernels:
        assert kernel in out
    assert artifact_from_onnx(path).quantised


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--rounding", "awq-clip"], "rounding by awq-clip.* needs pictures"),
        (["--rest", "int8"], "the rest in int8, needs pictures"),
        (["--for", "tensorrt", "--block", "32"], "TensorRT takes 64 or 128 for INT4; got 32"),
        (["--for", "tensorrt", "--asymmetric"], "zero points of 0 only"),
        (["--rounding", "hq"], "did you mean hqq"),
        (["--for", "simulated"], "expected one of ort-cpu, tensorrt"),
    ],
)
def test_wrong_wishes_for_int4_are_refused(
    small: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    path = tmp_path / "int4.onnx"
    assert re.search(message, refusal(["quantize", small.model, "--to", "int4", *more, "-o", str(path)], capsys))
    assert not path.exists()


def test_an_int4_file_is_measured_as_it_is(small: Recipe, tmp_path: Path, run_recipe: RunRecipe) -> None:
    path = tmp_path / "int4.onnx"
    assert cli.main(["quantize", small.model, "--to", "int4", "-o", str(path)]) == 0
    report = run_recipe(replace(small, model=str(path), noise=("clean",), limit=8))
    assert list(report.contenders) == ["ort-cpu:simulated", "ort-cpu:integer"]
    assert report.certificates["ort-cpu:integer"]["integer_macs"] == 0
