"""The whole line, compared with the same thing written down plainly."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image

from harness.recipe import Recipe
from harness.report.build import report_from_store
from harness.store import Store


def plain_input(data: bytes, resample: Image.Resampling = Image.Resampling.BILINEAR) -> np.ndarray:
    """The embedded network's preprocessing, as torchvision users write it."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    width, height = image.size
    scale = 256 / min(width, height)
    size = (256, int(256 * height / width)) if width <= height else (int(256 * width / height), 256)
    assert min(size) == round(scale * min(width, height))
    image = image.resize(size, resample)
    left, top = round((image.width - 224) / 2), round((image.height - 224) / 2)
    pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32) / np.float32(255)
    mean, std = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
    return ((pixels - mean) / std).transpose(2, 0, 1)[None]


def cell_rows(folder: Path, name: str, contender: str) -> list[tuple[object, ...]]:
    store = Store(folder)
    condition = next(c for c in store.read_json("run.json")["identity"]["conditions"] if c["name"] == name)
    return store.query(
        f"select sample, label, prediction, margin from records where cell = '{condition['cells'][contender]}' "
        "order by sample"
    )


def test_clean_fp32_rows_equal_a_plain_script(finished: Path, small: Recipe) -> None:
    session = ort.InferenceSession(small.model, providers=["CPUExecutionProvider"])
    classes = sorted(path.name for path in Path(small.data).iterdir())
    rows = cell_rows(finished, "clean", "ort-cpu:fp32")
    assert len(rows) == 16
    for sample, label, prediction, margin in rows:
        data = (Path(small.data) / str(sample)).read_bytes()
        logits = session.run(None, {"input": plain_input(data)})[0][0]
        assert label == classes.index(str(sample).split("/")[0])
        assert prediction == logits.argmax()
        assert margin == pytest.approx(logits[label] - np.delete(logits, label).max(), abs=1e-3)


def test_the_report_says_what_the_rows_say(finished: Path) -> None:
    report = report_from_store(Store(finished))
    for row in report.of_kind("condition"):
        for contender, estimate in row.accuracy.items():
            rows = cell_rows(finished, row.name, contender)
            assert estimate.value == pytest.approx(np.mean([label == guess for _, label, guess, _ in rows]))
            assert estimate.n == len(rows)


def test_every_cell_has_every_picture_once(finished: Path) -> None:
    rows = Store(finished).query("select cell, count(*), count(distinct sample) from records group by cell")
    assert len(rows) == 4 * 3
    assert {row[1:] for row in rows} == {(16, 16)}


def test_the_integer_version_is_integer_and_the_simulation_is_not(finished: Path) -> None:
    prepared = Store(finished).read_json("prepared.json")
    certificate = prepared["certificates"]["ort-cpu:integer"]
    assert certificate["integer_fraction"] >= 0.95
    assert prepared["contenders"]["ort-cpu:simulated"]["facts"]["integer_kernels"] is False
    hashes = {name: facts["sha256"] for name, facts in prepared["contenders"].items()}
    assert hashes["ort-cpu:simulated"] == hashes["ort-cpu:integer"] != hashes["ort-cpu:fp32"]


def test_the_quantised_file_and_its_calibration_stay_with_the_run(finished: Path) -> None:
    model = next((finished / "artifacts").glob("*.onnx"))
    sidecar = json.loads(model.with_name(model.name + ".json").read_text())
    assert sidecar["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    calibration = json.loads((finished / "artifacts" / "shapes.calibration.json").read_text())
    assert len(calibration["source"]["pictures"]) == calibration["inputs"] == 8
    assert all(low <= high for low, high in calibration["ranges"].values())


def test_logit_distances_are_those_of_a_plain_script(finished: Path, small: Recipe) -> None:
    """Between the float file and the Q/DQ file, in sessions of our own."""
    store = Store(finished)
    quantised = next((finished / "artifacts").glob("*.onnx"))
    files = (small.model, str(quantised))
    before, after = (ort.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in files)
    condition = next(c for c in store.read_json("run.json")["identity"]["conditions"] if c["name"] == "clean")
    cell = condition["cells"]["ort-cpu:integer"]
    rows = store.query(f"select sample, from_fp32, from_simulated from records where cell = '{cell}' order by sample")
    for sample, from_fp32, from_simulated in rows:
        fed = {"input": plain_input((Path(small.data) / str(sample)).read_bytes())}
        old, new = (session.run(None, fed)[0][0].astype(np.float64) for session in (before, after))
        old, new = old - old.mean(), new - new.mean()
        assert from_fp32 == pytest.approx(np.linalg.norm(new - old) / np.linalg.norm(old), rel=0.05, abs=2e-3)
        assert 0 <= from_simulated < from_fp32
    loss = next(row for row in report_from_store(store).rows if row.name == "clean").loss("total", "ort-cpu")
    assert loss is not None
    assert loss.distance.value == pytest.approx(np.mean([row[1] for row in rows]))
    assert loss.distance.n == len(rows)


def test_fp32_is_compared_with_nothing(finished: Path) -> None:
    condition = Store(finished).read_json("run.json")["identity"]["conditions"][0]
    for version, known in (("fp32", 0), ("simulated", 1), ("integer", 2)):
        cell = condition["cells"][f"ort-cpu:{version}"]
        sql = f"select count(from_fp32) > 0, count(from_simulated) > 0 from records where cell = '{cell}'"
        assert sum(Store(finished).query(sql)[0]) == known
