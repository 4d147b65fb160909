"""The command line as its user types it: what is printed, where, and the exit code."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from engines.onnx_file import artifact_from_onnx
from harness import cli
from harness.cli import main
from harness.commands import doctor, run
from harness.demo.embedded import demo_recipe
from harness.recipe import Recipe, toml_from_recipe
from harness.store import Store
from noise.presets import pipeline_from_preset

ROOT = Path(__file__).parents[2]


def qharness(*arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )


def test_a_run_prints_a_table_the_page_and_no_progress(small: Recipe, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = qharness(
        "run", small.model, "--data", small.data, "--noise", "clean,brightness:1", "--limit", "5", "-o", run
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "brightness:1" in done.stdout
    assert f"Report: {run / 'report.html'}" in done.stdout
    assert (run / "report.html").exists()


def test_the_stored_recipe_runs_again_to_the_same_rows(small: Recipe, finished: Path, tmp_path: Path) -> None:
    done = qharness("run", finished / "recipe.toml", "-o", tmp_path / "again")
    assert done.returncode == 0, done.stderr
    query = "select * from records order by all"
    assert Store(tmp_path / "again").query(query) == Store(finished).query(query)


def test_without_a_folder_the_same_command_finds_its_run_again(small: Recipe, tmp_path: Path) -> None:
    command = ("run", small.model, "--data", small.data, "--noise", "clean", "--limit", "2")
    first = qharness(*command, cwd=tmp_path)
    parts = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    assert first.returncode == 0, first.stderr
    assert len(parts) == 1
    qharness(*command, cwd=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")} == parts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "nowhere.onnx", "--data", "."), "there is no model file"),
        (("run", "m.onnx"), "add --data DATA"),
        (("run", "nowhere.toml"), "there is no recipe nowhere.toml"),
        (("demo", "-o", "README.md"), "README.md is a file; choose another folder"),
        (("demo", "-o", "/proc/no-such-place"), "/proc/no-such-place"),
        (("demo", "--workers", "-1"), "workers must be 0 or more; got -1"),
        (("report", "nowhere"), "is not a run"),
        (("inspect", "README.md"), "is not an ONNX file"),
        (("quantize", "README.md", "--calibrate", "docs", "-o", "out.onnx"), "is not an ONNX file"),
        (("inspect", "nowhere.onnx", "--engine", "ort-gpu"), "no engine 'ort-gpu'; did you mean 'ort-cpu'"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_exit_two(arguments: tuple[str, ...], message: str) -> None:
    done = qharness(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_bug_is_shown_whole_and_exits_three(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> object:
        raise ZeroDivisionError("for the test")

    monkeypatch.setattr(doctor, "doctor_report", broken)
    assert cli.main(["doctor"]) == 3
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "work", "arguments", "message"),
    [
        (doctor, "doctor_report", ["doctor"], "interrupted; the same command begins again"),
        (run, "execute", ["demo"], "the same command continues"),
    ],
)
def test_ctrl_c_says_whether_the_work_is_kept(
    module: ModuleType,
    work: str,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*_: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, work, interrupted)
    assert cli.main(arguments) == 130
    assert message in capsys.readouterr().err


def test_report_prints_what_is_asked_for(finished: Path) -> None:
    assert json.loads(qharness("report", finished, "--json").stdout)["pictures"] == 16
    assert qharness("report", finished, "--markdown").stdout.startswith("# Robustness of shapes.onnx")
    assert qharness("report", finished, "--html").stdout.strip() == str(finished / "report.html")
    assert "gaussian_noise:3" in qharness("report", finished).stdout


def test_a_damaged_report_is_made_again_from_the_records(finished: Path) -> None:
    before = (finished / "report.json").read_text()
    (finished / "report.json").write_text("{}")
    assert qharness("report", finished).returncode == 0
    assert (finished / "report.json").read_text() == before


def test_a_reader_that_goes_away_is_no_bug(finished: Path) -> None:
    command = f"{sys.executable} -m harness.cli report {finished} --json | head -c 10"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stderr == ""


def test_a_finished_run_says_that_nothing_was_left(finished: Path) -> None:
    done = qharness("run", finished / "recipe.toml", "-o", finished)
    assert "Nothing was left to measure" in done.stdout


def test_plan_measures_nothing(small: Recipe, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(toml_from_recipe(replace(small, limit=3)))
    done = qharness("plan", tmp_path / "r.toml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for word in ("pictures scored", "decode steps", "corruptions", "inferences", "About"):
        assert word in done.stdout
    assert list(tmp_path.iterdir()) == [tmp_path / "r.toml"]


def test_inspect_shows_integer_kernels_and_reasons(small: Recipe, finished: Path) -> None:
    quantised = next((finished / "artifacts").glob("*.onnx"))
    assert "100.00 %" in qharness("inspect", quantised).stdout
    float_model = qharness("inspect", small.model).stdout
    assert "0.00 %" in float_model
    assert "not quantised" in " ".join(float_model.replace("│", " ").split())


def test_doctor_lists_engines_and_noises() -> None:
    text = qharness("doctor").stdout
    for word in ("ort-cpu", "gaussian_noise", "integer kernels of class", "JPEG library"):
        assert word in text


def test_a_terminal_sees_progress(small: Recipe, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(toml_from_recipe(replace(small, noise=("clean",))))
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.cli", "run", str(tmp_path / "r.toml"), "-o", str(tmp_path / "run")],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=slave,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(slave)
    seen = b""
    while True:
        try:
            chunk = os.read(master, 4096)
        except OSError:
            break
        if not chunk:
            break
        seen += chunk
    os.close(master)
    assert process.wait() == 0
    assert b"measure" in seen


@pytest.mark.parametrize("output", ["model.onnx", "model.onnx.json", "other.onnx.json", "ranges.json"])
@pytest.mark.parametrize("command", ["quantize", "int4", "sensitivity", "calibrate"])
def test_no_command_writes_over_what_it_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], output: str, command: str
) -> None:
    demo = demo_recipe()
    shutil.copy(demo.model, tmp_path / "model.onnx")
    shutil.copy(f"{demo.model}.json", tmp_path / "model.onnx.json")
    (tmp_path / "ranges.json").write_text("{}")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    ranges = ["--calibration", str(tmp_path / "ranges.json")]
    words = {
        "quantize": ["quantize", *ranges],
        "int4": ["quantize", "--to", "int4", *ranges],
        "sensitivity": ["quantize", "--sensitivity", "--data", demo.data, *ranges],
        "calibrate": ["calibrate", "--data", demo.data],
    }[command]
    if command == "calibrate" and output == "ranges.json":
        return  # which replaces ranges by new ones, as asked
    name, *rest = words
    assert main([name, str(tmp_path / "model.onnx"), *rest, "-o", str(tmp_path / output)]) == 2
    assert "choose another name with -o" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_chosen_preprocessing_and_the_target_stay_with_what_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pictures: Path
) -> None:
    model, made = tmp_path / "bare.onnx", tmp_path / "made.onnx"
    shutil.copy(demo_recipe().model, model)
    chosen = ["--calibrate", str(pictures), "--calibration-pictures", "8", "--preprocess", "tensorflow"]
    assert main(["quantize", str(model), *chosen, "--for", "tensorrt", "-o", str(made)]) == 0
    sidecar = json.loads(Path(f"{made}.json").read_text())
    assert tuple(sidecar["preprocessing"]) == tuple(
        pipeline_from_preset("tensorflow", size=artifact_from_onnx(model).size[0], layout="nchw").describe()
    )
    capsys.readouterr()
    run = ["run", str(made), "--data", str(pictures), "--limit", "4", "--noise", "clean", "-o", str(tmp_path / "run")]
    assert main(run) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "made.onnx was quantised for tensorrt, and ort-cpu wants ort-cpu" in out
    assert "was assumed" not in out
