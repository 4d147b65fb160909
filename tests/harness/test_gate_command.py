"""The gate as its user and a build server see it: what is printed, what is written, and the exit code."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from harness.cli import main
from harness.demo.embedded import demo_recipe
from harness.progress import Progress
from harness.recipe import Recipe, toml_from_recipe
from harness.session import execute
from harness.speed import Speed
from harness.store import Store

PASSES = '[[rule]]\nname = "integers <run> & count"\nquantity = "integer_share"\nat_least = 50\n'
FAILS = '[[rule]]\nquantity = "changed"\nnoise = "*"\nstep = "total"\nat_least = 99\n'
UNDECIDED = '[[rule]]\nquantity = "drop"\nnoise = "clean"\nat_most = 0.1\n'


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    return tmp_path / "rules.toml"


@pytest.mark.parametrize(
    ("text", "code", "verdict"),
    [
        (PASSES, 0, "Verdict: pass. 1 of 1 rule passed."),
        (PASSES + FAILS, 1, "Verdict: fail. 1 of 2 rules failed."),
        (PASSES + FAILS + UNDECIDED, 1, "Verdict: fail. 1 of 3 rules failed, and 1 is undecided."),
        (PASSES + UNDECIDED, 2, "Verdict: could not judge. 1 of 2 rules is undecided."),
    ],
)
def test_the_exit_code_is_the_verdict(
    finished: Path, rules: Path, capsys: pytest.CaptureFixture[str], text: str, code: int, verdict: str
) -> None:
    rules.write_text(text)
    assert main(["gate", str(finished), "--rules", str(rules)]) == code
    shown = capsys.readouterr()
    assert verdict in shown.out
    assert "16 pictures, 4 conditions, 3 versions; none failed." in shown.out
    assert f"Rules: {rules}" in shown.out
    assert shown.err == ""


def test_reasons_say_what_was_measured_and_what_would_decide(
    finished: Path, rules: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules.write_text(FAILS + UNDECIDED)
    main(["gate", str(finished), "--rules", str(rules)])
    out = capsys.readouterr().out
    assert '"changed on every condition" failed: changed' in out
    assert '"drop on clean" undecided: drop' in out
    assert "over 16 pictures; wanted at most 0.1 points. About" in out
    assert "pictures would likely decide it" in out


def test_a_rule_with_many_places_shows_the_worst_and_counts_them(
    small: Recipe, rules: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = replace(small, limit=8, noise=("clean", "brightness"), engines=("ort-cpu:fp32",))
    execute(recipe, tmp_path / "run", Speed(0, 1), Progress())
    rules.write_text('[[rule]]\nquantity = "accuracy"\nnoise = "*"\nversion = "fp32"\nat_most = 0\n')
    assert main(["gate", str(tmp_path / "run"), "--rules", str(rules)]) == 1
    out = capsys.readouterr().out
    assert out.count("; wanted at most 0 %") == 5
    assert "failed at 6 places (--json lists all)." in out
    rules.write_text(rules.read_text().replace("at_most", "at_least"))
    assert main(["gate", str(tmp_path / "run"), "--rules", str(rules)]) == 0
    out = capsys.readouterr().out
    assert out.count("; wanted at least 0 %") == 1
    assert "Its other places are no closer to the bound." in out


def test_the_defaults_judge_where_no_rules_are_given(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gate", str(finished)]) == 2  # sixteen pictures say little
    out = capsys.readouterr().out
    assert "clean accuracy holds" in out
    assert "Rules: the defaults" in out


def test_markdown_and_json_say_the_same(finished: Path, rules: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules.write_text(PASSES + UNDECIDED)
    assert main(["gate", str(finished), "--rules", str(rules), "--markdown"]) == 2
    text = capsys.readouterr().out
    assert text.startswith("# Verdict: could not judge.")
    assert "| drop on clean | at most 0.1 points | " in text
    assert main(["gate", str(finished), "--rules", str(rules), "--json"]) == 2
    content = json.loads(capsys.readouterr().out)
    assert (content["schema_version"], content["outcome"]) == (1, "undecided")
    assert [each["outcome"] for each in content["rules"]] == ["passed", "undecided"]
    (check,) = content["rules"][1]["checks"]
    assert check["place"] == {"row": "clean", "engine": "ort-cpu", "version": "", "step": "total"}
    assert check["estimate"]["low"] <= 0.1 < check["estimate"]["high"]
    assert check["pictures_needed"] > 16


def test_junit_has_a_case_per_rule_and_no_doubt_is_green(finished: Path, rules: Path, tmp_path: Path) -> None:
    rules.write_text(PASSES + FAILS + UNDECIDED)
    assert main(["gate", str(finished), "--rules", str(rules), "--junit", str(tmp_path / "gate.xml")]) == 1
    suite = ElementTree.parse(tmp_path / "gate.xml").getroot()
    assert suite.tag == "testsuite"
    assert [suite.get(key) for key in ("tests", "failures", "errors", "skipped")] == ["3", "1", "1", "0"]
    passed, failed, undecided = suite.findall("testcase")
    assert passed.get("name") == "integers <run> & count"
    assert [child.tag for child in passed] == ["system-out"]
    assert [child.tag for child in failed] == ["failure"]
    assert [child.tag for child in undecided] == ["error"]
    assert "wanted at least 99 %" in (failed[0].get("message") or "")
    assert len((failed[0].text or "").splitlines()) == 4  # a line for every condition
    assert "would likely decide" in (undecided[0].get("message") or "")


def test_what_cannot_be_judged_is_one_line_and_exit_two(
    finished: Path, rules: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: str) -> str:
        assert main(["gate", *arguments]) == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert len(shown.err.splitlines()) == 1
        return shown.err

    rules.write_text(UNDECIDED.replace("clean", "claen"))
    assert "did you mean 'clean'" in refused(str(finished), "--rules", str(rules))
    assert "no file of" not in refused(str(finished), "--rules", str(tmp_path / "none.toml"))
    assert "is not a run" in refused(str(tmp_path / "nowhere"))
    assert "nothing.xml" in refused(str(finished), "--junit", str(tmp_path / "no" / "nothing.xml"))
    shutil.copytree(finished, tmp_path / "part")
    Store(tmp_path / "part").parts()[-1].unlink()
    assert "a verdict needs all of them" in refused(str(tmp_path / "part"))
    assert "a verdict needs all of them" in refused(str(finished), "--against", str(tmp_path / "part"))
    rules.write_text(PASSES)
    assert 'add one with quantity = "change"' in refused(
        str(finished), "--rules", str(rules), "--against", str(finished)
    )
    rules.write_text(UNDECIDED.replace("drop", "change"))
    assert "qharness gate RUN --against OTHER" in refused(str(finished), "--rules", str(rules))


def test_a_run_against_itself_changes_nothing(finished: Path, rules: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules.write_text('[[rule]]\nquantity = "change"\nnoise = "all noises"\nat_least = -30\n')
    assert main(["gate", str(finished), "--rules", str(rules), "--against", str(finished)]) == 0
    assert "0.00 [" in capsys.readouterr().out
    assert main(["gate", str(finished), "--against", str(finished)]) == 2
    assert "clean accuracy is that of the other run" in capsys.readouterr().out


def test_a_run_until_the_gate_shows_its_verdict_and_is_judged_by_its_rules(
    small: Recipe, rules: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules.write_text(PASSES)
    (tmp_path / "r.toml").write_text(toml_from_recipe(small))
    run = tmp_path / "run"
    command = ["run", str(tmp_path / "r.toml"), "-o", str(run), "--workers", "0", "--callers", "1"]
    assert main([*command, "--until", "gate", "--rules", str(rules)]) == 0
    assert "Verdict: pass." in capsys.readouterr().out
    assert main(["gate", str(run)]) == 0
    assert f"those that --until gate stored in {run}" in capsys.readouterr().out
    rules.write_text(FAILS)
    assert main(["gate", str(run), "--rules", str(rules)]) == 1
    assert "the run was to end by others, rule 1." in capsys.readouterr().out
    assert main([*command, "--until", "ci<9", "--rules", str(rules)]) == 2
    assert "--rules are for --until gate" in capsys.readouterr().err


def test_the_demo_stops_early_at_its_gate_with_the_first_rows_of_the_whole(rules: Path, tmp_path: Path) -> None:
    rules.write_text(PASSES + '[[rule]]\nquantity = "drop"\nnoise = "all noises"\nat_most = 4\n')
    recipe = replace(demo_recipe(), noise=("clean", "gaussian_noise:3", "brightness:3"))
    (tmp_path / "r.toml").write_text(toml_from_recipe(recipe))
    command = ["run", str(tmp_path / "r.toml"), "-o", str(tmp_path / "early"), "--until", "gate", "--rules", str(rules)]
    assert main(command) == 0
    execute(recipe, tmp_path / "whole", Speed(0, 2), Progress())
    early, whole = (
        Store(tmp_path / name).query("select * from records order by sample, cell") for name in ("early", "whole")
    )
    assert 0 < len(early) < len(whole)
    seen = {row[1] for row in early}
    assert early == [row for row in whole if row[1] in seen]
    for part in Store(tmp_path / "early").parts():
        assert (tmp_path / "whole" / "parts" / part.name).exists()
