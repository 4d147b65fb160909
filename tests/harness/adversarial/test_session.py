"""Attack sessions: from a model and pictures to a table, a page and a verdict on masking."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from engines.artifact import write_sidecar
from engines.onnx_file import artifact_from_onnx
from harness.adversarial.masking import FAILED, GENUINE, MASKED, OPEN, PASSED, UNDECIDED
from harness.adversarial.models import Logits
from harness.adversarial.session import Outcome, Request, attack, set_name
from harness.cli import main
from harness.commands.attack import attack_texts
from harness.progress import Progress
from harness.recipe import Recipe
from harness.report.adversarial import attack_page, headline, terminal_attack, write_attack
from harness.speed import Speed
from harness.store import Store
from noise.adversarial.base import Pictures, budget_from_text

Attacked = tuple[Path, Outcome]
PICTURES = 10  # of the fixtures


def test_every_set_is_given_to_every_contender(attacked: Attacked) -> None:
    found = attacked[1].found
    (budget,) = found.budgets
    assert budget.budget == "linf:4/255"
    assert len(budget.sets) == 4  # two twins, and two attacks on the engine
    for each in budget.sets:
        assert set(each.contenders) == {"ort-cpu:fp32", "ort-cpu:simulated", "ort-cpu:integer"}
        for name, left in each.contenders.items():
            assert left.robust.n == PICTURES
            assert budget.worst[name].robust.value <= left.robust.value  # type: ignore[operator]


def test_rounded_pictures_are_measured_again_on_their_source(attacked: Attacked) -> None:
    for each in attacked[1].found.budgets[0].sets:
        if each.made["source"]["name"] == "ort-cpu:integer":
            assert each.on_source.stored == each.contenders["ort-cpu:integer"].robust


def test_a_search_that_begins_at_the_twins_picture_finds_no_less(attacked: Attacked) -> None:
    sets = {each.name: each for each in attacked[1].found.budgets[0].sets}
    transferred = next(each for name, each in sets.items() if name.startswith("twin-ort-cpu"))
    refined = next(each for name, each in sets.items() if "-then-" in name)
    assert refined.made["start"]["name"] == transferred.name
    assert (refined.on_source.stored.value or 0) <= (transferred.contenders["ort-cpu:integer"].robust.value or 0)


def test_twins_speak_for_their_engines_and_both_numbers_are_told(attacked: Attacked) -> None:
    twins = attacked[1].twins
    assert {twin: gate["engine"] for twin, gate in twins.items()} == {
        "twin": "ort-cpu:fp32",
        "twin-ort-cpu": "ort-cpu:integer",
    }
    for gate in twins.values():
        assert gate["speaks"]
        assert gate["n"] == PICTURES
        assert gate["max_error"] >= gate["mean_error"] >= 0


def test_a_sound_network_is_not_called_masked(attacked: Attacked) -> None:
    for verdict in attacked[1].masking.values():
        assert not [each for each in verdict["checks"] if each["outcome"] == FAILED]


def test_the_page_and_the_terminal_tell_the_same_numbers(
    attacked: Attacked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = attacked[1]
    page = attack_page(outcome)
    Console(width=80).print(terminal_attack(outcome))
    text = capsys.readouterr().out
    assert "…" not in text
    worst = outcome.found.budgets[0].worst["ort-cpu:integer"].robust
    assert f"{100 * (worst.value or 0):.1f} %" in page
    assert f"{100 * (worst.value or 0):.1f}" in text
    assert "Is the robustness genuine?" in page
    assert "Do the twins speak for their engines?" in page
    write_attack(outcome, Store(tmp_path))
    stored = json.loads((tmp_path / "attack.json").read_text())
    assert stored["budgets"][0]["worst"]["ort-cpu:integer"]["robust"]["value"] == worst.value


def judged(recipe: Recipe, out: Path, attacks: tuple[str, ...], budget: str, pictures: int) -> Outcome:
    """An attack on the float network alone, all of its pictures doubted."""
    alone = replace(recipe, engines=("ort-cpu:fp32",), limit=pictures)
    request = Request(attacks, (budget_from_text(budget),), doubted=pictures)
    return attack(request, alone, out, Speed(workers=0, callers=1), Progress())


def outcomes(outcome: Outcome) -> dict[str, str]:
    return {each["name"]: each["outcome"] for each in outcome.masking["ort-cpu:fp32"]["checks"]}


def test_a_sound_network_under_strong_attacks_of_both_kinds_is_called_genuine(recipe: Recipe, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="twins need torch")
    found = judged(recipe, tmp_path, ("pgd:steps=10", "square:queries=100"), "8/255", 20)
    assert set(outcomes(found).values()) == {PASSED}
    assert len(outcomes(found)) == 9
    assert found.masking["ort-cpu:fp32"]["verdict"] == GENUINE
    assert "Robustness of fp32: no sign of masking on 20 pictures." in headline(found)


def test_attacks_that_are_weaker_than_the_doubts_own_make_nothing_genuine(recipe: Recipe, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="twins need torch")
    found = judged(recipe, tmp_path, ("pgd:steps=1,step=0.01",), "8/255", PICTURES)
    assert (found.found.budgets[0].worst["ort-cpu:fp32"].robust.value or 0) > 0.5
    assert found.masking["ort-cpu:fp32"]["verdict"] == UNDECIDED
    open_ones = {name for name, each in outcomes(found).items() if each == OPEN}
    assert open_ones == {"sets no weaker than the doubts' own attack", "queries against gradients, linf:8/255"}


def test_a_budget_below_a_level_makes_a_sound_network_neither_masked_nor_genuine(
    recipe: Recipe, tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason="twins need torch")
    found = judged(recipe, tmp_path, ("pgd:steps=1", "square:queries=2"), "0.5/255", PICTURES)
    assert found.masking["ort-cpu:fp32"]["verdict"] == UNDECIDED
    assert outcomes(found)["queries against gradients, linf:0.5/255"] == OPEN
    assert FAILED not in outcomes(found).values()


def test_a_twin_that_does_not_speak_says_nothing_of_masking_and_its_sets_are_marked(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch", reason="twins need torch")
    from harness.adversarial.twins import TwinModel

    class Stranger(TwinModel):
        """A double: it names the class beside that of its engine."""

        def logits(self, pictures: Pictures) -> Logits:
            return np.roll(super().logits(pictures), 1, axis=1)

    monkeypatch.setattr("harness.adversarial.session.twin_opener", lambda: Stranger)
    found = judged(recipe, tmp_path, ("fgsm", "square:queries=2"), "8/255", PICTURES)
    assert not found.twins["twin"]["speaks"]
    assert found.masking["ort-cpu:fp32"]["verdict"] == UNDECIDED
    assert {name for name, each in outcomes(found).items() if each != OPEN} == {"randomness", "outputs"}
    Console(width=100).print(terminal_attack(found))
    for text in (capsys.readouterr().out, attack_page(found)):
        assert "fgsm on twin*" in text
        assert "* made on a twin that does not speak for its engine" in text
        assert "square:queries=2 on ort-cpu:fp32*" not in text
        assert "95 % interval is 0.0% to 27.8%" in " ".join(text.split())


def saturated(source: Path, target: Path) -> Path:
    """The network with logits times 10,000 and a softmax: the same answers, and no gradient in float32."""
    model = onnx.load(str(source))
    graph = model.graph
    logits = graph.output[0].name
    graph.initializer.append(numpy_helper.from_array(np.float32(1e4), "sharpness"))
    graph.node.extend(
        [
            helper.make_node("Mul", [logits, "sharpness"], ["sharp"], "sharpen"),
            helper.make_node("Softmax", ["sharp"], ["probabilities"], "saturate", axis=1),
        ]
    )
    shape = [each.dim_param or each.dim_value for each in graph.output[0].type.tensor_type.shape.dim]
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, shape))
    onnx.save(model, str(target))
    like = artifact_from_onnx(source)
    made = replace(artifact_from_onnx(target), preprocessing=like.preprocessing, classes=like.classes)
    write_sidecar(replace(made, output_kind="probabilities"))
    return target


def test_a_network_whose_gradients_were_hidden_is_called_masked(recipe: Recipe, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="twins need torch")
    masked = replace(
        recipe, model=str(saturated(Path(recipe.model), tmp_path / "masked.onnx")), engines=("ort-cpu:fp32",)
    )
    request = Request(("pgd:steps=3",), (budget_from_text("4/255"),))
    outcome = attack(request, masked, tmp_path / "out", Speed(workers=0, callers=1), Progress())
    # It looks robust, and it is not: the same network without the disguise falls.
    assert (outcome.found.budgets[0].worst["ort-cpu:fp32"].robust.value or 0) > 0.8
    verdict = outcome.masking["ort-cpu:fp32"]
    assert verdict["verdict"] == MASKED
    failed = {each["name"] for each in verdict["checks"] if each["outcome"] == FAILED}
    assert {"gradients", "large epsilon"} <= failed
    assert "looks more robust than it is" in attack_page(outcome)


def test_the_command_goes_on_where_it_was_and_says_where_the_report_is(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch", reason="twins need torch")
    arguments = ["attack", recipe.model, "--data", recipe.data, "--engines", "ort-cpu:fp32", "--limit", "3"]
    arguments += ["--attacks", "fgsm", "--budgets", "2/255", "--doubt", "0", "--workers", "0", "-o", str(tmp_path)]
    assert main(arguments) == 0
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "sets").rglob("*.png")}
    assert len(stamps) == 3
    assert main([*arguments, "--attacks", "fgsm,pgd:steps=2,step=0.5"]) == 0
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    said = capsys.readouterr().out
    assert "pgd:steps=2,step=0.5 on twin" in said
    assert str(tmp_path / "attack.html") in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budgets", "8"], "8 grey levels are written 8/255"),
        (["--budgets=-1/255"], "epsilon must be above 0"),
        (["--attacks", "pdg"], "did you mean 'pgd'"),
        (["--attacks", "pgd:step_count=2"], "did you mean 'step'"),
        (["--attacks", "square+pgd"], "goes on from an attack by gradients with one by queries"),
        (["--attacks", "spsa", "--budgets", "l2:0.5"], "In l2 there are"),
        (["--sources", "twins"], "did you mean 'twin'"),
        (["--noise", "fog:3"], "an attack begins at clean pictures"),
    ],
)
def test_what_cannot_be_attacked_is_said_in_one_message(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    pytest.importorskip("torch", reason="twins need torch")
    common = ["attack", recipe.model, "--data", recipe.data, "--engines", "ort-cpu:fp32", "--limit", "2"]
    defaults = ["--attacks", "fgsm", "--budgets", "2/255", "--doubt", "0", "--workers", "0"]
    assert main([*common, *defaults, *arguments, "-o", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_names_of_attacks_keep_the_commas_of_their_parameters() -> None:
    assert attack_texts("pgd:steps=20,step=0.1, square") == ("pgd:steps=20,step=0.1", "square")
    assert set_name("ort-cpu:integer", "apgd-ce+square:queries=10", budget_from_text("2/255")) == (
        "ort-cpu-integer.apgd-ce-then-square-queries=10.linf-2-255"
    )
