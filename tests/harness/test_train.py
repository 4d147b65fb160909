"""``qharness train`` as its user meets it: a trained file, one that was killed and went on, and what is refused."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from engines.artifact import Artifact, write_sidecar
from engines.onnx_file import artifact_from_onnx
from harness import cli
from harness.errors import HarnessError
from harness.samples import samples_from_data
from harness.train import PreparedPictures, engine_answers
from noise.base import Pipeline
from noise.presets import pipeline_from_preset
from tests.engines.tiny import CLASSES, SIZE, Shape, tiny, tiny_artifact

torch = pytest.importorskip("torch")

ROOT = Path(__file__).parent.parent.parent
NAMES = tuple(f"class{index}" for index in range(CLASSES))


def pipeline() -> Pipeline:
    return pipeline_from_preset("imagenet-crop", size=SIZE)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures of each of ten classes, noise around a grey level of the class."""
    folder = tmp_path_factory.mktemp("pictures")
    draw = np.random.default_rng(3)
    for index, name in enumerate(NAMES):
        (folder / name).mkdir()
        for number in range(4):
            levels = np.clip(draw.normal(20 + 22 * index, 30, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(levels).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The tiny network, which declares its preprocessing and its classes."""
    artifact = tiny_artifact(tmp_path, Shape(batch_norm=True))
    write_sidecar(replace(artifact, preprocessing=tuple(pipeline().describe()), classes=NAMES))
    return artifact.path


def arguments(model: Path, pictures: Path, output: Path, *more: str) -> list[str]:
    return ["train", str(model), "--data", str(pictures), "--batch", "8", "-o", str(output), *more]


def refusal(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one message of a command that the user can mend."""
    capsys.readouterr()
    assert cli.main(command) == 2
    return capsys.readouterr().err


def test_a_trained_file_says_how_it_was_trained_and_what_runs(
    model: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "trained.onnx"
    assert cli.main(arguments(model, pictures, output, "--bits", "4", "--weight-bits", "3", "--epochs", "2")) == 0
    shown = capsys.readouterr().out
    assert "levels of 3 and 4 and 8 bits on 8-bit kernels" in shown
    assert "100.00 % of" in shown
    assert cli.main(["inspect", str(output)]) == 0
    assert "; trained for levels of 3 and 4 and 8 bits on 8-bit kernels" in capsys.readouterr().out.replace("\n", " ")
    trained = artifact_from_onnx(output)
    assert trained.classes == NAMES
    assert trained.preprocessing == tuple(pipeline().describe())
    made_by = trained.made_by
    assert made_by["trained"]["method"] == "lsq"
    assert made_by["trained"]["bits"] == {"weights": 3, "activations": 4, "first_last": 8}
    assert made_by["trained"]["pictures"] == 40
    assert made_by["trained"]["training"]["learning_rate"] == 0.004 * 8 / 512
    assert made_by["calibration"]["pictures"] == 40
    assert made_by["quantisation"] == {"target": "ort-cpu"}  # no second number of bits
    assert made_by["parity"]["n"] == 40
    assert made_by["parity"]["speaks"]
    assert made_by["parent_sha256"] == artifact_from_onnx(model).sha256
    assert not output.with_name("trained.onnx.training").exists()


def test_a_run_warns_of_scored_pictures_that_the_network_was_trained_on(
    model: Path, pictures: Path, tmp_path: Path
) -> None:
    output, scored = tmp_path / "trained.onnx", tmp_path / "scored"
    assert cli.main(arguments(model, pictures, output, "--epochs", "1", "--limit", "20")) == 0
    shutil.copytree(pictures, scored)
    trained_on = set(artifact_from_onnx(output).made_by["trained_on"])
    assert len(trained_on) == 20
    for path in scored.rglob("*.png"):
        path.rename(path.with_name(f"renamed-{path.name}"))
    run = ["run", str(output), "--data", str(scored), "--engines", "ort-cpu", "--noise", "gaussian_noise:1"]
    assert cli.main([*run, "-o", str(tmp_path / "run")]) == 0
    prepared = json.loads((tmp_path / "run" / "prepared.json").read_text())
    (found,) = [each for each in prepared["findings"] if each["check"] == "training"]
    assert found["severity"] == "warning"
    assert "trained.onnx was trained on 20 of the 40 scored pictures" in found["message"]
    assert not any("trained_on" in each["made_by"] for each in prepared["contenders"].values())
    for path in scored.rglob("*.png"):
        if hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest() in trained_on:
            path.unlink()
    assert cli.main([*run, "-o", str(tmp_path / "fresh")]) == 0
    fresh = json.loads((tmp_path / "fresh" / "prepared.json").read_text())
    assert not [each for each in fresh["findings"] if each["check"] == "training"]


def test_an_engine_that_says_something_else_leaves_no_file(
    model: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(artifact: Artifact, inputs: np.ndarray) -> np.ndarray:
        return np.roll(engine_answers(artifact, inputs), 1, axis=1)

    monkeypatch.setattr("harness.train.engine_answers", other)
    output = tmp_path / "trained.onnx"
    said = refusal(arguments(model, pictures, output, "--epochs", "1"), capsys)
    assert (
        "the engine does not say what was trained: trained network and engine name the same class for 0 of 40" in said
    )
    assert "transfer" not in said
    assert not output.exists()


def test_a_training_learns(model: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("--method", "pact", "--bits", "4", "--epochs", "12", "--learning-rate", "0.02", "--flip")
    assert cli.main(arguments(model, pictures, tmp_path / "trained.onnx", *more)) == 0
    losses = [float(line.rsplit(" ", 1)[1]) for line in capsys.readouterr().err.splitlines() if "mean loss" in line]
    assert len(losses) == 12
    assert losses[-1] < 0.8 * losses[0]


def test_a_killed_training_goes_on_and_ends_in_the_same_file(model: Path, pictures: Path, tmp_path: Path) -> None:
    more = ("--bits", "4", "--epochs", "6", "--checkpoint-steps", "3", "--flip")
    killed, whole = tmp_path / "killed.onnx", tmp_path / "whole.onnx"
    command = [sys.executable, "-m", "harness.cli", *arguments(model, pictures, killed, *more)]
    state = killed.with_name("killed.onnx.training")
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        while not state.exists():
            assert process.poll() is None, "it ended before there was a checkpoint"
            time.sleep(0.001)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert state.exists(), "it ended before it was killed: train longer"
    assert not killed.exists()
    assert cli.main(arguments(model, pictures, killed, *more)) == 0
    assert cli.main(arguments(model, pictures, whole, *more)) == 0
    assert killed.read_bytes() == whole.read_bytes()
    assert not state.exists()


def test_the_checkpoint_of_another_training_is_refused(
    model: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "trained.onnx"
    state = tmp_path / "trained.onnx.training"
    torch.save({"identity": "other", "done": 3, "network": {}, "optimiser": {}}, state)
    assert "checkpoint of another training" in refusal(arguments(model, pictures, output), capsys)
    state.write_bytes(state.read_bytes()[:100])
    assert "no whole checkpoint" in refusal(arguments(model, pictures, output), capsys)
    torch.save([3], state)
    assert "no whole checkpoint" in refusal(arguments(model, pictures, output), capsys)
    assert not output.exists()


class Touches:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


def test_a_checkpoint_with_code_in_it_is_refused_and_the_code_is_not_run(
    model: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, made = tmp_path / "trained.onnx", tmp_path / "made"
    output.with_name("trained.onnx.training").write_bytes(pickle.dumps(Touches(made)))
    said = refusal(arguments(model, pictures, output), capsys)
    assert "no whole checkpoint of a training, and nothing in it was run; delete it" in said
    assert "weights_only" not in said
    assert not made.exists()
    assert not output.exists()


def test_a_training_that_diverges_stops_and_keeps_its_last_checkpoint(
    model: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "trained.onnx"
    more = ("--learning-rate", "1e30", "--checkpoint-steps", "1", "--warm-up", "0")
    said = refusal(arguments(model, pictures, output, *more), capsys)
    assert "diverged in step" in said
    assert "The last checkpoint is kept" in said
    assert not output.exists()
    assert output.with_name("trained.onnx.training").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--bits", "1"), "weights: expected 2 to 8 bits; got 1"),
        (("--activation-bits", "9"), "activations: expected 2 to 8 bits; got 9"),
        (("--first-last-bits", "0"), "first_last: expected 2 to 8 bits; got 0"),
        (("--method", "lsp"), "did you mean 'lsq'"),
        (("--epochs", "0"), "epochs: expected 1 or more; got 0"),
        (("--learning-rate", "-1"), "learning_rate: expected a positive number"),
        (("--device", "tpu"), "device: expected one of cpu, cuda"),
        (("--for", "tensorrt"), "expected ort-cpu"),
    ],
)
def test_a_wish_that_cannot_be_had_is_said_before_anything_is_read(
    tmp_path: Path, more: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refusal(arguments(tmp_path / "no.onnx", tmp_path / "no", tmp_path / "out.onnx", *more), capsys)


def test_models_that_cannot_be_trained_are_refused_with_what_to_give(
    model: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = tmp_path / "trained.onnx"
    assert cli.main(arguments(model, pictures, trained, "--epochs", "1")) == 0
    again = arguments(trained, pictures, tmp_path / "again.onnx")
    assert "is quantised already; give the float model" in refusal(again, capsys)
    for name, shape, message in (
        ("fixed", Shape(batch=1), "export it with a dynamic batch"),
        ("ends", Shape(tail=("Softmax",)), "training needs logits"),
    ):
        path = tmp_path / f"{name}.onnx"
        onnx.save(tiny(shape), str(path))
        artifact = replace(artifact_from_onnx(path), preprocessing=tuple(pipeline().describe()), classes=NAMES)
        write_sidecar(artifact)
        assert message in refusal(arguments(path, pictures, tmp_path / "out.onnx"), capsys)


def test_pictures_that_are_missing_or_of_other_classes_are_refused(
    model: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = tmp_path / "nowhere"
    assert f"there is no data folder {nowhere}" in refusal(arguments(model, nowhere, tmp_path / "out.onnx"), capsys)
    other = tmp_path / "other" / "zebra"
    other.mkdir(parents=True)
    (other / "0.png").write_bytes((pictures / "class0" / "0.png").read_bytes())
    assert "zebra" in refusal(arguments(model, other.parent, tmp_path / "out.onnx"), capsys)


def test_pictures_that_cannot_be_decoded_are_left_out_and_counted_until_they_are_most(
    model: Path, pictures: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    for index in range(4):
        (folder / NAMES[index]).mkdir(parents=True)
        whole = (pictures / NAMES[index] / "0.png").read_bytes()
        (folder / NAMES[index] / "0.png").write_bytes(whole if index else b"no picture")
    samples = samples_from_data(str(folder), "", artifact_from_onnx(model), 0)
    prepared = PreparedPictures(samples, pipeline(), 0)
    inputs, labels = prepared.take(range(4))
    assert inputs.shape == (3, 3, SIZE, SIZE)
    assert sorted(labels) == [1, 2, 3]
    assert list(prepared.failed) == ["class0/0.png"]
    for index in (1, 2):
        (folder / NAMES[index] / "0.png").write_bytes(b"no picture")
    with pytest.raises(HarnessError, match="3 of 4 pictures to train on cannot be prepared"):
        prepared.take(range(4))
