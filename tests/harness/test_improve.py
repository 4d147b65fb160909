"""``--improve`` as its user meets it, and what a run does with it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from engines.artifact import read_sidecar
from engines.onnx_file import artifact_from_onnx
from exporters import IMPROVEMENTS
from exporters.base import ExportError
from harness import cli
from harness.errors import HarnessError
from harness.exporting import improvements
from harness.plan import plan
from harness.prepare import prepare
from harness.progress import Progress
from harness.recipe import Recipe, read_recipe, toml_from_recipe
from harness.report.build import Report

RunRecipe = Callable[..., Report]

# Those that the embedded network, a small ResNet, has something for.
SUITABLE = ("cross-layer-equalisation", "adaround:20", "bias-correction")


@pytest.fixture
def quantize(small: Recipe, tmp_path: Path) -> Callable[..., int]:
    """The command on the embedded network and eight of its pictures."""

    def command(*more: str) -> int:
        pictures = ["--calibrate", small.calibrate, "--calibration-pictures", "8"]
        return cli.main(["quantize", small.model, *pictures, "-o", str(tmp_path / "q.onnx"), *more])

    return command


def test_improvements_are_applied_in_the_order_of_the_table() -> None:
    names = ("bias-correction", "smooth-quant:0.7", "adaround", "cross-layer-equalisation")
    chosen = improvements(names)
    assert [name.partition(":")[0] for name in chosen] == list(IMPROVEMENTS)
    assert [each.after for each in chosen.values()] == [False, False, True, True]


def test_a_file_says_what_improved_it(
    small: Recipe, tmp_path: Path, quantize: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert quantize("--improve", ",".join(reversed(SUITABLE))) == 0
    made_by = read_sidecar(tmp_path / "q.onnx")["made_by"]
    assert list(made_by["improvements"]) == list(SUITABLE)
    assert made_by["quantisation"]["improve"] == list(reversed(SUITABLE))
    assert made_by["parent_sha256"] == artifact_from_onnx(Path(small.model)).sha256
    assert made_by["calibration"]["model_sha256"] != made_by["parent_sha256"], "what was calibrated is equalised"
    text = " ".join(capsys.readouterr().out.split())
    assert re.search(r"note: cross-layer-equalisation changed \d+ layers; \d+ left: ", text)
    assert re.search(r"note: bias-correction changed \d+ layers", text)
    assert "100.00 % of" in text


@pytest.mark.parametrize("name", SUITABLE)
def test_every_improvement_changes_the_file(tmp_path: Path, quantize: Callable[..., int], name: str) -> None:
    assert quantize() == 0
    plain = (tmp_path / "q.onnx").read_bytes()
    assert quantize("--improve", name) == 0
    assert (tmp_path / "q.onnx").read_bytes() != plain


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--improve", "bias-corection"], "did you mean 'bias-correction'"),
        (
            ["--improve", "smooth-quant"],
            "smooth-quant finds nothing to do in this model; .*: no LayerNorm",
        ),
        (["--improve", "smooth-quant:2"], "the share that moves into the weights, 0 to 1; got 2"),
        (["--improve", "adaround:many"], "the improvement 'adaround' cannot take 'many'"),
        (["--improve", "bias-correction:3"], "the improvement 'bias-correction' takes no number; write it without :3"),
        (["--improve", "adaround,adaround:5"], "the improvement 'adaround' is named twice"),
        (["--improve", "adaround", "--to", "int4"], "leave --improve out with --to int4"),
        (["--improve", "adaround", "--sensitivity", "--data", "{data}"], "leave --improve out with .* --sensitivity"),
    ],
)
def test_wrong_wishes_are_refused(
    small: Recipe,
    tmp_path: Path,
    quantize: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    assert quantize(*(each.format(data=small.data) for each in more)) == 2
    text = " ".join(capsys.readouterr().err.split())
    assert re.search(message, text), text
    assert not (tmp_path / "q.onnx").exists()


def test_ranges_are_no_pictures(small: Recipe) -> None:
    with pytest.raises(HarnessError, match=r"improvements look at pictures.*instead of ranges"):
        replace(small, calibrate="", calibration="cal.json", improve=("adaround",))


def test_a_quantised_model_is_not_improved(small: Recipe, tmp_path: Path, quantize: Callable[..., int]) -> None:
    assert quantize() == 0
    with pytest.raises(HarnessError, match=r"q.onnx is quantised already; improve the float model"):
        plan(replace(small, model=str(tmp_path / "q.onnx"), improve=("adaround",)))


def test_a_recipe_keeps_its_improvements(small: Recipe, tmp_path: Path) -> None:
    recipe = replace(small, improve=SUITABLE)
    (tmp_path / "recipe.toml").write_text(toml_from_recipe(recipe))
    assert read_recipe(tmp_path / "recipe.toml") == recipe


def test_what_was_improved_is_used_again_and_otherwise_made_again(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepared(*names: str) -> dict[str, str]:
        made = prepare(plan(replace(small, improve=names)), tmp_path, Progress())
        return {each.version: each.artifact.sha256 for each in made}

    plain, equalised = prepared(), prepared("cross-layer-equalisation")
    both = prepared("cross-layer-equalisation", "bias-correction")
    assert len({plain["integer"], equalised["integer"], both["integer"]}) == 3
    assert plain["fp32"] == equalised["fp32"] == both["fp32"], "fp32 is the model as it was given"
    monkeypatch.setattr("harness.improve.float_improver", lambda: pytest.fail("improved again"))
    monkeypatch.setattr("harness.improve.quantised_improver", lambda: pytest.fail("improved again"))
    assert prepared("cross-layer-equalisation", "bias-correction") == both


def test_an_interrupted_improvement_leaves_no_file_that_passes_for_improved(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    recipe = replace(small, improve=("bias-correction",))
    monkeypatch.setattr("harness.improve.quantised_improver", lambda: interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(plan(recipe), tmp_path, Progress())
    monkeypatch.undo()
    made = prepare(plan(recipe), tmp_path, Progress())[-1].artifact
    assert "bias-correction" in made.made_by["improvements"]


def test_a_run_reports_what_improved_its_files(small: Recipe, run_recipe: RunRecipe) -> None:
    recipe = replace(small, noise=("clean",), limit=8, improve=("cross-layer-equalisation", "bias-correction"))
    report = run_recipe(recipe)
    notes = [each["message"] for each in report.findings if each["check"] == "improvement"]
    assert [note.split()[0] for note in notes] == ["cross-layer-equalisation", "bias-correction"]
    assert report.identity["recipe"]["improve"] == list(recipe.improve)
    assert json.dumps(report.describe())
    assert report.certificates["ort-cpu:integer"]["integer_fraction"] == 1.0


def test_an_improvement_that_finds_nothing_stops_a_run(small: Recipe, run_recipe: RunRecipe) -> None:
    with pytest.raises(ExportError, match="smooth-quant finds nothing to do"):
        run_recipe(replace(small, noise=("clean",), improve=("smooth-quant",)))


def test_external_changes_of_the_model_are_seen(small: Recipe, tmp_path: Path) -> None:
    """An improved float model belongs to the bytes of the model that it was made from."""
    other = tmp_path / "shapes.onnx"
    model = onnx.load(small.model)
    model.doc_string = "another"
    onnx.save(model, str(other))
    (tmp_path / "shapes.onnx.json").write_text(
        json.dumps({k: v for k, v in read_sidecar(Path(small.model)).items() if k != "sha256"})
    )
    recipe = replace(small, improve=("cross-layer-equalisation",))
    first = prepare(plan(recipe), tmp_path / "made", Progress())[-1].artifact
    second = prepare(plan(replace(recipe, model=str(other))), tmp_path / "made", Progress())[-1].artifact
    assert first.made_by["parent_sha256"] != second.made_by["parent_sha256"]
