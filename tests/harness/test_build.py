"""``qharness build``: lints first, says what is missing, and shows what was built."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from engines import BUILDERS, ENGINES, FORMATS, Builder, Entry, Format
from engines.artifact import Artifact, write_sidecar
from engines.base import Array, EngineOptions
from engines.building import BuildOptions, Built, OnStep
from engines.certificate import Certificate, layer_proof
from engines.macs import layers_from_onnx
from engines.onnx_file import artifact_from_onnx
from engines.trt.record import artifact_from_plan, record_from_artifact
from harness.cli import main
from harness.commands.build import replicates
from harness.errors import HarnessError
from harness.mismatch import mismatch_recipe
from harness.plan import plan
from harness.progress import Progress
from harness.recipe import Recipe
from tests.engines.trt.conftest import DEVICE, Install, forget, install, quantised
from tests.engines.trt.double import Behaviour
from tests.engines.trt.test_lint import with_float_residual, with_zero_point

__all__ = ["install", "quantised"]


def test_a_file_that_does_not_suit_is_refused_before_tensorrt_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = with_zero_point().write(tmp_path)
    assert main(["build", str(path), "-o", str(tmp_path / "m.plan")]) == 2
    shown = capsys.readouterr()
    assert "error: zero-point" in shown.out
    assert shown.err.strip() == f"error: {path} does not suit tensorrt; see the errors above"


def test_without_tensorrt_there_is_one_message(
    quantised: Artifact, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    forget()
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert main(["build", str(quantised.path), "-o", str(quantised.path.with_name("m.plan"))]) == 2
    message = capsys.readouterr().err.strip()
    assert message == "error: engine 'tensorrt' needs the package 'tensorrt': pip install 'qharness[tensorrt]'"


def test_libraries_that_cannot_be_loaded_are_told_from_a_package_that_is_not_there(
    quantised: Artifact, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    forget()
    real = builtins.__import__

    def broken(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "tensorrt":
            raise ImportError("libcublas.so.12: cannot open shared object file")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", broken)
    assert main(["build", str(quantised.path), "-o", str(quantised.path.with_name("m.plan"))]) == 2
    message = capsys.readouterr().err
    assert "TensorRT is installed, but its libraries cannot be loaded: libcublas.so.12" in message


def test_a_plan_is_built_and_its_certificate_shown(
    install: Any, quantised: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = install("10.16").asked
    plan = quantised.path.with_name("m.plan")
    command = ["build", str(quantised.path), "-o", str(plan), "--precision", "fp16", "--batch", "1,4,16"]
    assert main([*command, "--workspace", "512", "--level", "1", "--hardware", "same-compute-capability"]) == 0
    shown = capsys.readouterr().out
    assert f"{plan.resolve()}: tensorrt 10.16.1.11" in shown
    assert "note: a word of warning" in shown
    assert "m.plan: 100.00 % of" in shown
    assert DEVICE.name in shown
    record = record_from_artifact(artifact_from_plan(plan))
    assert record.batch == (1, 4, 16)
    assert record.options.precision == "fp16"
    assert asked["pool"] == ("WORKSPACE", 512 << 20)
    assert main(["inspect", str(plan)]) == 0
    assert "m.plan: 100.00 % of" in capsys.readouterr().out


def test_warnings_do_not_stop_a_build(
    install: Any, quantised: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install("10.16")
    path = with_float_residual().write(tmp_path)
    # No classifier, so it is refused after the linter and before the builder.
    assert main(["build", str(path), "-o", str(tmp_path / "m.plan")]) == 2
    shown = capsys.readouterr()
    assert "warning: residual" in shown.out
    assert "expected" in shown.err


def test_a_changed_plan_is_inspected_only_when_it_is_trusted(
    install: Any, quantised: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    install("11.4")
    plan = quantised.path.with_name("m.engine")
    assert main(["build", str(quantised.path), "-o", str(plan)]) == 0
    plan.write_bytes(plan.read_bytes().replace(b"draft", b"other"))
    assert main(["inspect", str(plan)]) == 2
    assert "--trust" in capsys.readouterr().err
    assert main(["inspect", str(plan), "--trust"]) == 0


def test_plan_is_no_file_to_lint(install: Install, quantised: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    install("10.16")
    plan = quantised.path.with_name("m.plan")
    assert main(["build", str(quantised.path), "-o", str(plan)]) == 0
    for words in (["inspect", str(plan), "--for", "tensorrt"], ["build", str(plan), "-o", str(plan)]):
        assert main(words) == 2
        assert "m.plan is a plan; expected the ONNX file" in " ".join(capsys.readouterr().err.split())


def test_replicates_are_built_apart_and_compared(
    install: Any, quantised: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    install("10.16")
    plan = quantised.path.with_name("m.plan")
    assert main(["build", str(quantised.path), "-o", str(plan), "--replicates", "3"]) == 0
    assert "the 3 builds chose the same kernels" in capsys.readouterr().out
    for path in replicates(plan, 3):
        record = record_from_artifact(artifact_from_plan(path))
        assert record.options.timing_cache == "fresh"
        assert path.with_name(path.name + ".timing").is_file()
    assert main(["build", str(quantised.path), "-o", str(plan), "--replicates", "0"]) == 2
    words = ["build", str(quantised.path), "-o", str(plan), "--replicates", "2"]
    capsys.readouterr()
    assert main([*words, "--timing-cache", "reuse"]) == 2
    assert "--replicates 2 needs --timing-cache fresh" in capsys.readouterr().err
    assert main([*words, "--timing-cache", "fresh"]) == 0


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (Behaviour(starts=False), "Update the NVIDIA driver"),
        (Behaviour(build_error="Could not find any implementation for node conv"), "--workspace"),
        (Behaviour(parser_errors=((0, "No importer registered for op: Conv"),)), "stem (Conv)"),
    ],
)
def test_what_tensorrt_refuses_is_one_message(
    behaviour: Behaviour, message: str, install: Any, quantised: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    install("8.6", behaviour)
    assert main(["build", str(quantised.path), "-o", str(quantised.path.with_name("m.plan"))]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--engine", "tensort"], "there is no engine to build for 'tensort'; did you mean 'tensorrt'?"),
        (["--precision", "int8"], "precision: expected one of fp32, tf32, fp16, bf16; got 'int8'"),
        (["--batch", "8,4,1"], "batch: expected 1 <= smallest"),
        (["--level", "9"], "level: expected one of 0, 1, 2, 3, 4, 5; got 9"),
    ],
)
def test_wrong_options_are_told_with_the_choices(
    wrong: list[str], message: str, quantised: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", str(quantised.path), "-o", str(quantised.path.with_name("m.plan")), *wrong]) == 2
    assert message in capsys.readouterr().err


def test_a_batch_is_one_size_or_three(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ("1,2", "many", "0", "-1", "1,,3"):
        with pytest.raises(SystemExit, match="2"):
            main(["build", "m.onnx", "-o", "m.plan", f"--batch={wrong}"])
        assert f"expected one size, or three as in 1,8,32; got {wrong!r}" in capsys.readouterr().err


def test_builds_that_differ_are_told_by_their_layers(
    install: Any, quantised: Artifact, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install("10.16")
    names = tuple(f"conv{index}" for index in range(7))
    monkeypatch.setattr("harness.commands.build.plan_comparison", lambda engine: lambda plans: names)
    command = ["build", str(quantised.path), "-o", str(quantised.path.with_name("m.plan")), "--replicates", "2"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "the 2 builds differ in the kernels of 7 layers: conv0, conv1, conv2, conv3, conv4, ..." in shown


def test_a_plan_is_not_written_over_its_source(quantised: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", str(quantised.path), "-o", str(quantised.path)]) == 2
    assert "is the model itself" in capsys.readouterr().err


# A second builder, and a format of its own: the model's own bytes under another name, for the double of an engine.


def press(artifact: Artifact, path: Path, options: BuildOptions, on_step: OnStep) -> Built:
    on_step("Pressing", 1, 1)
    path.write_bytes(artifact.path.read_bytes())
    pressed = replace(artifact, path=path, format="pressed", made_by={"tool": f"a press, {options.precision}"})
    write_sidecar(pressed)
    return Built(pressed, ())


def read_pressed(path: Path, trust: bool = False) -> Artifact:
    copy = path.with_name(f"{path.name}.onnx")
    copy.write_bytes(path.read_bytes())
    return replace(artifact_from_onnx(copy, trust), path=path, format="pressed", as_it_is=True)


def certify_pressed(artifact: Artifact, options: EngineOptions, feeds: Mapping[str, Array]) -> Certificate:
    del options, feeds
    evidence = {"runtime": "a press", "provider": "paper", "kernel_class": "flat"}
    return Certificate(tuple(layer_proof(each, None, (), "") for each in layers_from_onnx(artifact.path)), {}, evidence)


def test_second_builder_and_its_format_are_rows_and_nothing_else(
    quantised: Artifact, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], small: Recipe
) -> None:
    certify = f"{__name__}:certify_pressed"
    row = Entry("tests.harness.doubles:DoubleEngine", "a double", "cpu", certify, "ort-cpu", False, ("onnx", "pressed"))
    monkeypatch.setitem(FORMATS, "pressed", Format(f"{__name__}:read_pressed", "pressed", None, (".pressed",)))
    monkeypatch.setitem(ENGINES, "press", row)
    monkeypatch.setitem(BUILDERS, "press", Builder(f"{__name__}:press", "none:none", "cpu"))
    pressed = quantised.path.with_name("m.pressed")
    assert main(["build", str(quantised.path), "--engine", "press", "-o", str(pressed)]) == 0
    assert f"{pressed.resolve()}: a press, fp32" in capsys.readouterr().out
    assert main(["inspect", str(pressed)]) == 0
    assert "(a press, paper, flat)" in capsys.readouterr().out
    with pytest.raises(HarnessError, match=r"m\.pressed is pressed, which tensorrt does not run; choose from press$"):
        plan(replace(small, model=str(pressed), engines=("tensorrt",)))
    source, path = artifact_from_onnx(Path(small.model)), quantised.path.with_name("demo.pressed")
    recipe = replace(small, model=str(press(source, path, BuildOptions(), print).artifact.path), engines=("press",))
    assert plan(recipe).versions == (("press", "fp32"),)
    assert mismatch_recipe(recipe).engines == ("press:fp32",)


def test_phases_have_bars_on_a_terminal_only() -> None:
    with Progress(Console(force_terminal=False)).phases() as on_step:
        on_step("Building", 0, 2)
    with Progress(Console(force_terminal=True, quiet=True)).phases() as on_step:
        on_step("Building", 0, 2)
        on_step("Building", 2, 2)
