"""Requests: what cannot be attacked fails before anything is calibrated, and twins are opened where they are needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

from engines.artifact import write_sidecar
from engines.base import EngineOptions, EngineUnavailable
from engines.onnx_file import artifact_from_onnx
from exporters.base import ExportError
from harness.adversarial import session
from harness.adversarial.session import Outcome, Request, attack
from harness.errors import HarnessError
from harness.plan import plan
from harness.prepare import Contender
from harness.progress import Progress
from harness.recipe import Recipe
from harness.speed import Speed
from noise.adversarial.base import budget_from_text
from noise.base import NoiseError

LEVEL = (budget_from_text("1/255"),)
QUERIES = Request(("square:queries=4",), LEVEL, doubted=2)


def attacked(request: Request, recipe: Recipe, out: Path) -> Outcome:
    return attack(request, replace(recipe, limit=3), out, Speed(workers=0, callers=1), Progress())


@pytest.mark.parametrize(
    ("attacks", "more", "message"),
    [
        (("square", "spsa"), {"budgets": (budget_from_text("l2:0.5"),)}, "In l2 there are"),
        (("square:query=9",), {}, "did you mean 'queries'"),
        (("square:queries=1",), {}, "at least 2"),
        (("square",), {"doubted": -1}, "0 pictures .* or more; got -1"),
        (("square",), {"budgets": ()}, "at least one attack and one budget"),
        (("grey-levels",), {"budgets": LEVEL}, "has budgets of its own, got linf:1/255 beside them"),
        (("transfer+square",), {}, "transfer of 'transfer.square' is a list of attacks, each for itself"),
        (("pgd+rays+square",), {}, "rays"),
        (("square",), {"surrogates": ("a/one.onnx",)}, "surrogates are attacked by gradients"),
        (("pgd",), {"surrogates": ("a/one.onnx", "b/one.onnx")}, "two surrogates would be called twin-of-one"),
    ],
)
def test_a_request_that_contradicts_itself_is_none(
    attacks: tuple[str, ...], more: Mapping[str, Any], message: str
) -> None:
    pytest.importorskip("torch", reason="attacks by gradients need torch")
    with pytest.raises((HarnessError, NoiseError), match=message):
        Request(attacks, **more)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"sources": ("ort-cpu:int",)}, r"no source 'ort-cpu:int'; did you mean"),
        ({"sources": ("twin",)}, "square:queries=4 is for an engine, and the sources are twin"),
        ({"budgets": (budget_from_text("1"),)}, "in grey levels is written linf:1/255"),
        ({"budgets": (budget_from_text("l2:389"),)}, r"\(387.979 is black to white\).* is written l2:389/255"),
        ({"attacks": ("random-noise",), "budgets": (budget_from_text("l1:2e5"),)}, "150528 is black to white"),
    ],
)
def test_what_does_not_fit_the_model_is_said_before_it_is_calibrated(
    recipe: Recipe, tmp_path: Path, more: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(HarnessError, match=message):
        attacked(replace(QUERIES, **more), recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_budgets_are_those_of_the_recipe_where_none_is_given() -> None:
    pytest.importorskip("torch", reason="attacks by gradients need torch")
    names = [budget.name for _, budget in Request(("grey-levels",)).planned()]
    assert list(dict.fromkeys(names)) == ["linf:1/255", "linf:2/255", "linf:4/255", "linf:8/255"]
    assert [budget.name for _, budget in Request(("square",)).planned()] == ["linf:2/255", "linf:4/255"]


@pytest.fixture
def without_twin(recipe: Recipe, tmp_path: Path) -> Recipe:
    """The network with an operator behind its logits that engines have and twins lack; it keeps their order."""
    model = onnx.load(recipe.model)
    (output,) = model.graph.output
    model.graph.node.append(helper.make_node("Asinh", [output.name], ["shrunk"], "shrink"))
    output.name = "shrunk"
    path = tmp_path / "odd.onnx"
    onnx.save(model, str(path))
    like = artifact_from_onnx(Path(recipe.model))
    write_sidecar(replace(artifact_from_onnx(path), preprocessing=like.preprocessing, classes=like.classes))
    return replace(recipe, model=str(path), engines=("ort-cpu:fp32",))


def test_a_model_without_a_twin_is_attacked_by_queries_and_the_report_says_why(
    without_twin: Recipe, tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason="twins need torch")
    outcome = attacked(QUERIES, without_twin, tmp_path / "out")
    assert outcome.twins["twin"]["engine"] == "ort-cpu:fp32"
    assert not outcome.twins["twin"]["speaks"]
    assert "no twin because odd.onnx: " in outcome.twins["twin"]["reason"]
    assert "Asinh" in outcome.twins["twin"]["reason"]
    assert outcome.masking == {}
    assert outcome.found.budgets[0].worst["ort-cpu:fp32"].robust.n == 3
    with pytest.raises(ExportError, match="Asinh"):
        attacked(replace(QUERIES, attacks=("fgsm",)), without_twin, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_attacks_by_queries_without_doubts_do_without_torch(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> Any:
        raise EngineUnavailable("an attack by gradients needs the package 'torch'")

    monkeypatch.setattr(session, "twin_opener", missing)
    one = replace(recipe, engines=("ort-cpu:fp32",))
    assert attacked(replace(QUERIES, doubted=0), one, tmp_path / "out").twins == {}
    doubted = attacked(QUERIES, one, tmp_path / "out")
    assert "needs the package 'torch'" in doubted.twins["twin"]["reason"]
    assert doubted.masking == {}


def test_engines_that_share_a_file_share_its_twin_which_is_attacked_once(recipe: Recipe) -> None:
    pytest.importorskip("torch", reason="twins need torch")
    made = plan(replace(recipe, noise=("clean",), engines=("ort-cpu:fp32",)))
    contenders = [Contender(engine, "integer", made.artifact, EngineOptions()) for engine in ("ort-cpu", "openvino")]
    request = Request(("fgsm",), LEVEL)
    twins, absent = session._open_twins(request, made, contenders, Speed(workers=0, callers=1))
    assert list(twins) == ["twin-ort-cpu", "twin-openvino"]
    assert list(session._chosen(request, twins)) == ["twin-ort-cpu"]
    assert list(session._chosen(replace(request, sources=("twin-openvino",)), twins)) == ["twin-ort-cpu"]
    assert absent == {}
