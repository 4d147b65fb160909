"""The plan resolves every name and finds every cheap mistake before the first picture."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import onnx
import pytest
from rich.console import Console

from engines import ENGINES
from engines.artifact import ArtifactError, sha256_of, write_sidecar
from engines.base import EngineUnavailable
from harness.conditions import Finding
from harness.cost import cost_of, cost_report
from harness.errors import HarnessError
from harness.plan import plan
from harness.prepare import prepare
from harness.progress import Progress
from harness.recipe import DEFAULT_NOISES, Recipe
from harness.speed import Speed
from noise.base import MissingData, NoiseError


def names(recipe: Recipe) -> list[str]:
    return [condition.name for condition in plan(recipe).conditions]


def test_the_default_grid_is_clean_five_corruptions_and_the_resize_swap(small: Recipe) -> None:
    conditions = names(replace(small, noise=DEFAULT_NOISES))
    assert len(conditions) == 1 + 5 * 5 + 4
    assert conditions[0] == "clean"
    assert "impulse_noise:5" in conditions
    assert "resize:area" in conditions


def test_a_noise_means_all_its_settings_and_a_setting_means_one(small: Recipe) -> None:
    assert names(replace(small, noise=("brightness:2", "contrast", "brightness:2"))) == [
        "brightness:2",
        "contrast:1",
        "contrast:2",
        "contrast:3",
        "contrast:4",
        "contrast:5",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise": ("gausian_noise",)}, "no noise 'gausian_noise'; did you mean 'gaussian_noise'"),
        ({"noise": ("brightness:6",)}, "no setting of 'brightness' '6'. Known: 1, 2, 3, 4, 5|did you mean"),
        ({"engines": ("ort-cpuu",)}, "no engine 'ort-cpuu'; did you mean 'ort-cpu'"),
        ({"engines": ("ort-cpu:int8",)}, "no version 'int8'"),
        ({"engines": ("integer",)}, "'integer' is a version, not an engine; write ENGINE:integer"),
        ({"preprocess": "imagnet"}, "no preset 'imagnet'; did you mean 'imagenet'"),
        ({"calibration_pictures": 0, "calibrate": ""}, "too few to set some aside"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(small: Recipe, changes: dict[str, object], message: str) -> None:
    with pytest.raises(HarnessError, match=message):
        plan(replace(small, **changes))  # type: ignore[arg-type]


def test_scored_and_calibration_pictures_never_overlap(small: Recipe) -> None:
    made = plan(replace(small, calibrate=""))
    scored = {sample.id for sample in made.scored.samples}
    calibration = {sample.id for sample in made.calibration.samples.samples}
    assert len(calibration) == 16 // 5
    assert not scored & calibration
    assert len(scored | calibration) == 16
    with pytest.raises(HarnessError, match="8 calibration pictures would also be scored"):
        plan(replace(small, calibrate=small.data))


def test_float_alone_needs_no_calibration(small: Recipe) -> None:
    made = plan(replace(small, calibrate="", engines=("ort-cpu:fp32",)))
    assert made.calibration.samples.samples == ()
    assert len(made.scored.samples) == 16


def test_a_limit_takes_the_first_of_the_same_draw(small: Recipe) -> None:
    everything = [sample.id for sample in plan(small).scored.samples]
    assert [sample.id for sample in plan(replace(small, limit=5)).scored.samples] == everything[:5]


def test_equal_pipelines_under_two_names_are_measured_once(small: Recipe) -> None:
    sidecar = json.loads(Path(small.model + ".json").read_text())
    for step in sidecar["preprocessing"]:
        if step["stage"] == "resize":
            step.update(name="opencv", params={**step["params"], "filter": "area"})
    folder = Path(small.data).parent
    model = folder / "area.onnx"
    shutil.copy(small.model, model)
    (folder / "area.onnx.json").write_text(json.dumps(sidecar))
    made = plan(replace(small, model=str(model), noise=("clean", "resize:area", "resize:nearest")))
    assert len(made.conditions) == 3
    assert [condition.name for condition in made.distinct] == ["clean", "resize:nearest"]


def test_a_pipeline_that_does_not_fit_the_model_is_refused(small: Recipe, tmp_path: Path) -> None:
    sidecar = json.loads(Path(small.model + ".json").read_text())
    for step in sidecar["preprocessing"]:
        if step["stage"] == "crop":
            step["params"]["size"] = 200
    shutil.copy(small.model, tmp_path / "m.onnx")
    (tmp_path / "m.onnx.json").write_text(json.dumps(sidecar))
    with pytest.raises(HarnessError, match=r"makes float32 \[3, 200, 200\], but m.onnx expects float32 \[N, 3, 224"):
        plan(replace(small, model=str(tmp_path / "m.onnx")))


def test_a_bare_model_gets_imagenets_preprocessing_and_a_warning(small: Recipe, tmp_path: Path) -> None:
    shutil.copy(small.model, tmp_path / "bare.onnx")
    made = plan(replace(small, model=str(tmp_path / "bare.onnx")))
    assert [finding.check for finding in made.findings] == ["preprocessing"]
    assert "bare.onnx declares no preprocessing" in made.findings[0].message
    assert made.pipeline == plan(small).pipeline
    assert isinstance(made.findings[0], Finding)
    assert plan(replace(small, model=str(tmp_path / "bare.onnx"), preprocess="unit")).findings == ()


def test_an_engine_with_built_in_kernels_has_no_simulated_version(
    small: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENGINES, "built", ENGINES["ort-cpu"]._replace(simulates=False))
    versions = plan(replace(small, engines=("built", "ort-cpu:simulated"))).versions
    assert versions == (("built", "fp32"), ("built", "integer"), ("ort-cpu", "simulated"))
    with pytest.raises(HarnessError, match="built cannot switch its integer kernels off"):
        plan(replace(small, engines=("built:simulated",)))


def test_a_plan_runs_on_its_engine_alone(small: Recipe, tmp_path: Path) -> None:
    """A plan is measured in the one version that it is; here its bytes are nobody's, for nothing is run."""
    made = plan(small)
    tensors = {"input": asdict(made.artifact.input), "output": asdict(made.artifact.output), "quantised": True}
    path = tmp_path / "m.plan"
    path.write_bytes(b"code for a GPU")
    digest = sha256_of(path)
    write_sidecar(replace(made.artifact, path=path, format="plan", sha256=digest, made_by=tensors))
    with pytest.raises(HarnessError, match=r"m\.plan is a plan, which ort-cpu does not run; choose from tensorrt"):
        plan(replace(small, model=str(path)))
    with pytest.raises(EngineUnavailable, match=r"pip install 'qharness\[tensorrt\]'"):
        plan(replace(small, model=str(path), engines=("tensorrt",)))


def test_an_engine_of_other_files_does_not_run_onnx(small: Recipe) -> None:
    with pytest.raises(
        HarnessError, match=r"shapes\.onnx is an ONNX file, which litert does not run; choose from ort-"
    ):
        plan(replace(small, engines=("litert",)))


def test_a_quantised_model_has_two_versions(small: Recipe, tmp_path: Path) -> None:
    made = plan(small)
    integer = next(c for c in prepare(made, tmp_path, Progress()) if c.version == "integer")
    again = replace(small, model=str(integer.artifact.path))
    assert [version for _, version in plan(again).versions] == ["simulated", "integer"]
    with pytest.raises(HarnessError, match="already quantised, so there is no fp32 version"):
        plan(replace(again, engines=("ort-cpu:fp32",)))


def test_prepared_files_are_found_again(small: Recipe, tmp_path: Path) -> None:
    made = plan(small)
    prepare(made, tmp_path, Progress())
    written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    prepare(made, tmp_path, Progress())
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == written
    other = plan(replace(small, calibration_pictures=4))
    prepare(other, tmp_path, Progress())
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} != written


def test_a_missing_model_is_one_message(small: Recipe) -> None:
    with pytest.raises(ArtifactError, match="there is no model file"):
        plan(replace(small, model="nowhere.onnx"))


def test_the_cost_counts_shared_work_once(small: Recipe) -> None:
    made = plan(small)
    speed = Speed(workers=2)
    cost = cost_of(made, speed, Progress())
    assert cost.stage_runs["decode"] == 16
    assert cost.stage_runs["resize"] == 2 * 16
    assert cost.stage_runs["sensor"] == 2 * 16
    assert cost.inferences == 16 * 4 * 3
    assert cost.measure_seconds > 0
    assert cost.prepare_seconds > 0
    console = Console(record=True, width=100, file=None, quiet=False)
    with console.capture() as captured:
        console.print(cost_report(made, cost, speed))
    text = captured.get()
    assert "inferences" in text
    assert "192" in text
    assert "judged by 4 pictures" in " ".join(text.split())


def test_a_model_with_external_weights_outside_its_folder_is_refused(small: Recipe, tmp_path: Path) -> None:
    model = onnx.load(small.model)
    folder = tmp_path / "model"
    folder.mkdir()
    onnx.save(model, folder / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    (folder / "weights.bin").rename(tmp_path / "weights.bin")
    moved = onnx.load(folder / "m.onnx", load_external_data=False)
    for tensor in moved.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../weights.bin"
    (folder / "m.onnx").write_bytes(moved.SerializeToString())
    with pytest.raises(ArtifactError, match=r"'\.\./weights.bin', outside the model's folder"):
        plan(replace(small, model=str(folder / "m.onnx")))


def test_stored_form_adds_a_jpeg_to_corruptions_and_to_nothing_else(small: Recipe) -> None:
    made = plan(replace(small, noise=("clean", "fog:2", "resize:area"), corruption_form="stored"))
    last = {each.name: [s for s in each.pipeline.steps if s.stage == "sensor"] for each in made.conditions}
    assert last["clean"] == last["resize:area"] == []
    assert [step.name for step in last["fog:2"]] == ["fog", "jpeg_compression"]
    assert last["fog:2"][1].params == {"quality": 85}


def test_stored_form_of_stored_pictures_is_refused(small: Recipe, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="stored already"):
        replace(small, corruption_form="stored", imagenet_c=str(tmp_path))
    with pytest.raises(HarnessError, match="did you mean 'stored'"):
        replace(small, corruption_form="strored")


def test_imagenet_c_on_disk_is_read_and_never_resized_again(small: Recipe, tmp_path: Path) -> None:
    (tmp_path / "fog" / "3").mkdir(parents=True)
    made = plan(replace(small, noise=("clean", "fog:3"), imagenet_c=str(tmp_path)))
    clean, fog = made.conditions
    assert (clean.folder, fog.folder) == ("", str(tmp_path / "fog" / "3"))
    assert fog.pipeline.steps[1].params["ready_size"] == 224
    assert not [step for step in fog.pipeline.steps if step.stage == "sensor"]
    assert set(made.preparation(1).trees()) == {"", fog.folder}


def test_imagenet_c_without_a_corruption_is_refused(small: Recipe, tmp_path: Path) -> None:
    (tmp_path / "fog" / "3").mkdir(parents=True)
    with pytest.raises(HarnessError, match="has no folder fog/4; expected NAME/SEVERITY/CLASS/FILE"):
        plan(replace(small, noise=("fog:4",), imagenet_c=str(tmp_path)))


def test_procedural_frost_stands_in_under_its_own_name(small: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing() -> None:
        raise MissingData("the overlays are not here")

    monkeypatch.setattr("noise.corruptions.frost.published", nothing)
    made = plan(replace(small, noise=("frost:2",)))
    assert [condition.name for condition in made.conditions] == ["procedural_frost:2"]
    assert made.findings[-1].severity == "warning"
    assert "procedural_frost stands in for frost" in made.findings[-1].message
    assert "the overlays are not here" in made.findings[-1].message


@pytest.mark.needs_overlays
def test_frost_is_frost_where_the_overlays_are(small: Recipe) -> None:
    made = plan(replace(small, noise=("frost:2",)))
    assert [condition.name for condition in made.conditions] == ["frost:2"]
    assert not made.findings


def test_frost_overlays_of_a_wrong_folder_are_refused(small: Recipe, tmp_path: Path) -> None:
    with pytest.raises(NoiseError, match=r"lacks frost1\.png"):
        plan(replace(small, noise=("frost",), frost_overlays=str(tmp_path)))
