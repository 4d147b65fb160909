"""An exported file gives the network's answers, says where it comes from, or is not there."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from engines.artifact import Artifact, sidecar_path
from engines.base import EngineOptions, call
from engines.onnx_file import artifact_from_onnx
from engines.ort import open_cpu
from exporters.base import ExportError
from exporters.comparison import MOST_ERROR, Comparison, Exported, ParityFailed
from exporters.export_options import CURRENT, OLDER, ExportOptions
from exporters.parity import Parity
from exporters.simplify import simplified
from exporters.sources.weights import weights_sha256
from harness.demo.embedded import demo_recipe
from harness.errors import HarnessError
from harness.export import ExportJob, network_from_job, pictures_for
from harness.exporting import onnx_exporter
from noise.base import pipeline_from_json
from tests.conftest import missing

SIZE = 64


@pytest.fixture(autouse=True, scope="module")
def _exporter(request: pytest.FixtureRequest) -> None:
    if find_spec("onnxscript") is None:
        missing(request, "torch", "PyTorch's exporter needs onnxscript: pip install 'qharness[torch]'")


def job(factory: str = "quiet", **changes: object) -> ExportJob:
    spec = f"python:tests.exporters.networks:{factory}"
    return replace(ExportJob(spec, preprocess="imagenet", size=SIZE), **changes)


def exported(wanted: ExportJob, path: Path) -> Exported:
    network = network_from_job(wanted)
    return onnx_exporter()(network, wanted.options(), pictures_for(network, wanted), path)


def answers(artifact: Artifact, inputs: np.ndarray) -> np.ndarray:
    with closing(open_cpu(artifact, EngineOptions())) as engine:
        return call(engine, {artifact.input.name: inputs}).outputs[artifact.output.name]


@pytest.mark.parametrize(
    ("exporter", "target", "opset"), [(CURRENT, "ort-cpu", 18), (CURRENT, "tensorrt", 17), (OLDER, "tensorrt", 17)]
)
def test_the_file_answers_as_the_network_and_has_the_opset_of_its_target(
    exporter: str, target: str, opset: int, tmp_path: Path
) -> None:
    wanted = job(exporter=exporter, target=target)
    made = exported(wanted, tmp_path / "m.onnx")
    inputs = np.random.default_rng(1).standard_normal((3, 3, SIZE, SIZE)).astype(np.float32)
    with torch.no_grad():
        right = network_from_job(wanted).module.eval()(torch.from_numpy(inputs)).numpy()
    assert np.abs(answers(made.artifact, inputs) - right).max() < 1e-5
    model = onnx.load(made.artifact.path)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    assert made.artifact.made_by["opset"] == opset
    assert made.artifact.fixed_batch is None
    assert {(each.inputs, each.batch) for each in made.comparisons} == {
        (name, batch) for name in ("pictures", "random") for batch in (1, 8)
    }


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory, _exporter: None) -> Artifact:
    """A small network's file."""
    return exported(job(), tmp_path_factory.mktemp("quiet") / "m.onnx").artifact


@pytest.mark.parametrize("exporter", [CURRENT, OLDER])
def test_constants_are_folded_and_weights_keep_their_names(exporter: str, tmp_path: Path) -> None:
    graph = onnx.load(exported(job(exporter=exporter), tmp_path / "m.onnx").artifact.path).graph
    assert {node.op_type for node in graph.node} == {"Conv", "Relu", "ReduceMean", "Gemm"}
    assert {"conv.weight", "fc.weight", "fc.bias"} <= {each.name for each in graph.initializer}
    assert not any(node.metadata_props or node.doc_string for node in graph.node)


def test_the_sidecar_says_where_the_file_comes_from(quiet: Artifact) -> None:
    made = artifact_from_onnx(quiet.path)
    facts = made.made_by
    assert facts["source"]["spec"] == "python:tests.exporters.networks:quiet"
    assert facts["versions"]["torch"] == torch.__version__
    assert set(facts["versions"]) == {"torch", "onnx", "onnxscript", "onnxruntime", "python"}
    compared = facts["parity"]["pictures"]
    assert (compared["source"], compared["n"], compared["unreadable"]) == ("embedded pictures", 16, [])
    assert len(compared["fingerprint"]) == 32
    assert facts["parity"]["random"] == {"seed": 0}
    assert (facts["mode"], facts["exporter"], facts["simplified"], len(facts["weights_sha256"])) == (
        "eval",
        CURRENT,
        True,
        64,
    )
    assert [each["passed"] for each in facts["parity"]["comparisons"]] == [True] * 4
    pipeline = pipeline_from_json(made.preprocessing or ())
    assert pipeline.step_of("crop", "").params["size"] == made.size[0] == SIZE


def test_weights_are_known_by_their_values() -> None:
    hashes = [weights_sha256(network_from_job(job(seed=seed)).module) for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_baked_file_answers_on_levels_as_the_other_on_floats(quiet: Artifact, tmp_path: Path) -> None:
    floats = quiet
    levels = exported(job(bake=True), tmp_path / "levels.onnx").artifact
    assert (levels.input.dtype, levels.input.shape) == ("uint8", (None, SIZE, SIZE, 3))
    declared = pipeline_from_json(levels.preprocessing or ())
    assert [step.stage for step in declared.steps] == ["decode", "resize", "crop", "layout"]
    assert levels.made_by["parity"]["comparisons"][0]["passed"]
    pictures = pictures_for(network_from_job(job()), job()).levels
    params = pipeline_from_json(floats.preprocessing or ()).step_of("normalise", "").params
    mean, std = (np.array(params[name], np.float32) for name in ("mean", "std"))
    normalised = ((pictures.astype(np.float32) / np.float32(255) - mean) / std).transpose(0, 3, 1, 2)
    assert np.array_equal(answers(levels, pictures), answers(floats, np.ascontiguousarray(normalised)))


def test_a_file_with_other_answers_is_not_written(tmp_path: Path) -> None:
    """The older exporter takes the branch of a black picture for all pictures, so its file is wrong."""
    with pytest.raises(ParityFailed, match=r"4 of 4 comparisons failed.*m\.onnx was not written"):
        exported(job("Undecided", exporter=OLDER), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_the_file_of_an_earlier_one(quiet: Artifact, tmp_path: Path) -> None:
    for file in (quiet.path, sidecar_path(quiet.path)):
        shutil.copy(file, tmp_path)
    before = artifact_from_onnx(tmp_path / "m.onnx")
    with pytest.raises(ParityFailed):
        exported(job("Undecided", exporter=OLDER), tmp_path / "m.onnx")
    assert artifact_from_onnx(before.path).sha256 == before.sha256
    assert sorted(each.name for each in tmp_path.iterdir()) == ["m.onnx", sidecar_path(before.path).name]


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("Restless", r"two answers to the same pictures.*training=self\.training"),
        ("Talkative", r"returns tuple of 2; expected one tensor \[N, classes\]"),
        ("Stubborn", "the network itself stays in train mode"),
        ("Wide", r"makes \[2, 5, 1, 1\] of \[2, 3, 64, 64\]"),
        ("Silent", r"scores are from -?0 to -?0 for all pictures and classes"),
        ("Undecided", r"exporters/networks\.py:\d+, in forward: the network decides by the values of its input"),
        ("Pairs", "cannot follow the network"),
    ],
)
def test_a_network_that_is_no_classifier_of_pictures_is_refused(factory: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        exported(job(factory), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_another_number_of_classes_than_the_network_has_is_refused(tmp_path: Path) -> None:
    for classes in (4, ("cat", "dog")):
        with pytest.raises(ExportError, match=r"the network has 5 outputs, and [42] classes are named"):
            exported(job(classes=classes), tmp_path / "m.onnx")
    named = exported(job(classes=tuple("abcde")), tmp_path / "m.onnx")
    assert named.artifact.classes == ("a", "b", "c", "d", "e")


def test_without_a_preprocessing_none_is_declared_and_none_baked(tmp_path: Path) -> None:
    assert exported(job(preprocess=""), tmp_path / "m.onnx").artifact.preprocessing is None
    with pytest.raises(HarnessError, match="name it with --preprocess"):
        exported(job(preprocess="", bake=True), tmp_path / "m.onnx")


def test_a_size_that_the_network_does_not_take_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"refuses \[2, 3, 96, 96\]: made for 64 .*; choose another --size"):
        exported(job("Picky", size=96), tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("factory", "note"),
    [("Small", "was in train mode"), ("half", "weights in torch.float16; they were converted to float32")],
)
def test_what_is_changed_of_a_network_is_said(factory: str, note: str, tmp_path: Path) -> None:
    made = exported(job(factory), tmp_path / "m.onnx")
    assert [note in each for each in made.notes] == [True]


@pytest.mark.parametrize(
    ("max_error", "mean_error", "lost_margin", "passed"),
    [
        (1e-3, 1e-4, 0, True),
        (1.1e-3, 0, 0, False),
        (1e-3, 1.1e-4, 0, False),
        (1e-3, 0, 1e-3, True),
        (1e-3, 0, 1.1e-3, False),
    ],
)
def test_the_verdict_holds_errors_against_the_deviation(
    max_error: float, mean_error: float, lost_margin: float, passed: bool
) -> None:
    """The spread, which a constant makes large, decides nothing; nor does a top class that two classes share."""
    deviation = 2.0
    errors = [each * deviation for each in (max_error, mean_error)]
    found = Parity(8, 8 if not lost_margin else 7, *errors, 1e6, deviation, lost_margin * deviation)
    assert Comparison("pictures", 1, found).passed is passed
    assert MOST_ERROR == 1e-3


def pictures_of(folder: Path, count: int) -> Path:
    """A folder with as many of the embedded pictures."""
    folder.mkdir()
    for place, file in enumerate(sorted(Path(demo_recipe().data).glob("*/*.jpg"))[:count]):
        shutil.copy(file, folder / f"{place}.jpg")
    return folder


def test_few_pictures_are_repeated_to_whole_batches_and_it_is_said(tmp_path: Path) -> None:
    data = pictures_of(tmp_path / "few", 3)
    (data / "torn.jpg").write_bytes(b"no picture")
    made = exported(job(data=str(data)), tmp_path / "m.onnx")
    assert [(each.inputs, each.batch, each.parity.n) for each in made.comparisons] == [
        ("pictures", 1, 3),
        ("pictures", 8, 8),
        ("random", 1, 16),
        ("random", 8, 16),
    ]
    assert made.notes == (
        "not compared on, for they cannot be read: torn.jpg",
        "pictures compared on: 3 only, repeated to batches of 8",
    )
    compared = made.artifact.made_by["parity"]["pictures"]
    assert (compared["source"], compared["n"], compared["unreadable"]) == (str(data), 3, ["torn.jpg"])


def test_the_fingerprint_is_of_the_pictures_compared_on(tmp_path: Path) -> None:
    prints = []
    for name, count in (("one", 2), ("same", 2), ("more", 3)):
        wanted = job(data=str(pictures_of(tmp_path / name, count)))
        prints.append(pictures_for(network_from_job(wanted), wanted).fingerprint)
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("count", [1, 16])
def test_a_file_that_is_wrong_for_large_batches_alone_is_not_written(count: int, tmp_path: Path) -> None:
    """The older exporter records the path of its two pictures for every number."""
    data = pictures_of(tmp_path / "data", count)
    with pytest.raises(ParityFailed) as caught:
        exported(job("crowded", exporter=OLDER, data=str(data)), tmp_path / "m.onnx")
    assert {(each.inputs, each.batch): each.passed for each in caught.value.comparisons} == {
        ("pictures", 1): True,
        ("pictures", 8): False,
        ("random", 1): True,
        ("random", 8): False,
    }


def test_a_simplification_with_other_answers_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The double is of a simplifier that spoils a weight."""

    def spoiled(model: onnx.ModelProto) -> onnx.ModelProto:
        changed = simplified(model)
        weight = next(each for each in changed.graph.initializer if each.name == "fc.weight")
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.1), weight.name))
        return changed

    monkeypatch.setattr("exporters.export.simplified", spoiled)
    made = exported(job(), tmp_path / "m.onnx")
    assert made.artifact.made_by["simplified"] is False
    inputs = np.random.default_rng(1).standard_normal((3, 3, SIZE, SIZE)).astype(np.float32)
    with torch.no_grad():
        right = network_from_job(job()).module(torch.from_numpy(inputs)).numpy()
    assert np.abs(answers(made.artifact, inputs) - right).max() < 1e-5


def test_a_large_bias_buys_no_error(tmp_path: Path) -> None:
    with pytest.raises(ParityFailed, match="4 of 4 comparisons failed"):
        exported(job("Partial", exporter=OLDER), tmp_path / "m.onnx")


@pytest.mark.parametrize(("opset", "exporter"), [(12, CURRENT), (18, "dynamite")])
def test_options_that_do_not_exist_are_refused(opset: int, exporter: str) -> None:
    with pytest.raises(ExportError, match="expected"):
        ExportOptions(opset, exporter)
