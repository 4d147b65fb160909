"""What was asked for and cannot be had: an error where it was named, a field and a warning where it was only meant."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from PIL import Image

from engines.base import EngineUnavailable
from harness.errors import HarnessError
from harness.plan import plan
from harness.recipe import Recipe
from harness.report.build import Report
from harness.report.markdown import markdown_report
from harness.store import Store
from noise.base import DoesNotApply
from tests.harness.conftest import copy_pictures

PACKAGES = {"av": "ffmpeg", "simplejpeg": "simplejpeg", "torch": "torchvision"}


@pytest.fixture
def without_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without the optional decoders, whatever is installed."""
    for package in (*PACKAGES, "torchvision"):
        monkeypatch.setitem(sys.modules, package, None)
    for module in ("decode_ffmpeg", "decode_simplejpeg", "decode_torchvision", "resize_torch"):
        monkeypatch.delitem(sys.modules, f"noise.{module}", raising=False)


@pytest.mark.usefixtures("without_packages")
def test_all_settings_of_a_noise_run_where_they_can_and_the_rest_is_reported(
    small: Recipe, tmp_path: Path, run_recipe: Callable[..., Report]
) -> None:
    recipe = replace(small, noise=("clean", "decode"), limit=2, engines=("ort-cpu:fp32",))
    report = run_recipe(recipe)
    ran = {row.name for row in report.of_kind("condition")}
    assert {"decode:pillow", "decode:opencv", "decode:pillow-icc"} <= ran
    missed = {each["name"]: each for each in report.not_run}
    assert not ran & set(missed)
    assert missed["decode:ffmpeg"] == {
        "name": "decode:ffmpeg",
        "noise": "decode",
        "setting": "ffmpeg",
        "reason": "step 'decode.ffmpeg' needs the package 'av': pip install 'qharness[decoders]'",
    }
    assert "pip install 'qharness[torch]'" in missed["decode:torchvision"]["reason"]
    assert [f["severity"] for f in report.findings if "asked for and not run" in f["message"]] == ["warning"] * 4
    for text in (markdown_report(report), (tmp_path / "run" / "report.html").read_text()):
        assert "settings were asked for and not run, and no mean includes them: decode:ffmpeg" in text
    schema = json.loads((Path(__file__).parents[2] / "harness" / "report" / "schema.json").read_text())
    jsonschema.validate(json.loads(json.dumps(report.describe())), schema)


@pytest.mark.usefixtures("without_packages")
@pytest.mark.parametrize(("package", "setting"), PACKAGES.items())
def test_a_setting_that_was_named_needs_its_package(small: Recipe, package: str, setting: str) -> None:
    with pytest.raises(EngineUnavailable, match=rf"needs the package '{package}': pip install 'qharness\["):
        plan(replace(small, noise=("clean", f"decode:{setting}")))


@pytest.mark.usefixtures("without_packages")
def test_nothing_that_can_run_is_an_error_with_the_reason(small: Recipe) -> None:
    with pytest.raises(HarnessError, match=r"nothing of resize can run here: resize.opencv swaps the resize step"):
        plan(replace(small, preprocess="imagenet-crop", noise=("resize",)))
    with pytest.raises(DoesNotApply, match=r"resize.opencv swaps the resize step"):
        plan(replace(small, preprocess="imagenet-crop", noise=("clean", "resize:nearest")))


@pytest.mark.needs_row("decode.simplejpeg")
def test_a_picture_that_one_decoder_rejects_fails_in_its_cell_only(
    small: Recipe, tmp_path: Path, run_recipe: Callable[..., Report]
) -> None:
    data = copy_pictures(Path(small.data), tmp_path / "data", per_class=1)
    victim = sorted(data.rglob("*.jpg"))[0]
    stored = io.BytesIO()
    Image.open(victim).save(stored, "PNG")
    victim.write_bytes(stored.getvalue())
    noises = ("clean", "decode:simplejpeg", "decode:opencv")
    report = run_recipe(replace(small, data=str(data), noise=noises, engines=("ort-cpu:fp32",)))
    by_name = {row.name: row.accuracy["ort-cpu:fp32"] for row in report.of_kind("condition")}
    assert {name: each.failed for name, each in by_name.items()} == {
        "clean": 0,
        "decode:simplejpeg": 1,
        "decode:opencv": 0,
    }
    assert {each.n for each in by_name.values()} == {16}
    rows = Store(tmp_path / "run").query("select error from records where error is not null")
    assert len(rows) == 1
    assert rows[0][0].startswith("decode.simplejpeg: NoiseError: libjpeg-turbo cannot decode the picture")
