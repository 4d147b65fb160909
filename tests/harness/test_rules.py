"""Rules: what is wrong in a file of rules is named, and every rule has its places in a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.mce import ALEXNET_ERROR
from harness.quantities import QUANTITIES, Grid, Place, grid_from_report
from harness.report.build import report_from_store
from harness.rules import DEFAULT_AGAINST, DEFAULT_RULES, Rule, places, read_rules, rules_from_tables
from harness.store import Store

GRID = Grid(
    conditions=(("clean", ""), ("fog", "1"), ("fog", "2"), ("resize", "nearest")),
    contenders=(
        ("ort-cpu", "fp32"),
        ("ort-cpu", "simulated"),
        ("ort-cpu", "integer"),
        ("openvino", "fp32"),
        ("openvino", "integer"),
        ("ort-cuda", "fp32"),
    ),
    classes=16,
)


def rule_text(*lines: str) -> str:
    return "\n".join(("[[rule]]", *lines))


DROP = ('quantity = "drop"', 'noise = "clean"')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (rule_text(*DROP, "at_mots = 1"), r"no rule key \(in .*r.toml, rule 1\) 'at_mots'; did you mean 'at_most'"),
        ('[[rules]]\nquantity = "drop"', "no key of a file of rules .* 'rules'; did you mean 'rule'"),
        ("", r"has no rules; each begins with a line \[\[rule\]\]"),
        ("rule = 3", "has no rules"),
        ("[[rule]", "is not a file of rules in TOML"),
        (rule_text("at_most = 1"), 'a rule needs quantity = "..."'),
        (rule_text('quantity = "dorp"'), "no quantity 'dorp'; did you mean 'drop'"),
        (rule_text(*DROP), "'drop on clean' needs a bound: at_most = NUMBER or at_least = NUMBER"),
        (rule_text(*DROP, "at_most = 1", "at_least = 0"), "has two bounds, at_most and at_least; write two rules"),
        (rule_text(*DROP, 'at_most = "1"'), "at_most must be a number; got '1'"),
        (rule_text(*DROP, "at_most = true"), "at_most must be a number; got True"),
        (rule_text(*DROP, "at_most = inf"), "its bound must be a finite number; got inf"),
        (rule_text('quantity = "drop"', "at_most = 1"), 'needs noise = "..."'),
        (rule_text('quantity = "drop"', "noise = 3", "at_most = 1"), "noise must be of type str; got 3"),
        (rule_text(*DROP, "at_most = 1", 'step = "totl"'), "no step .* 'totl'; did you mean 'total'"),
        (rule_text(*DROP, "at_most = 1", 'version = "integer"'), "drop has no version; leave it out"),
        (rule_text('quantity = "failed"', "at_most = 1", 'engine = "ort-cpu"'), "failed has no engine; leave it out"),
        (
            rule_text('quantity = "top5"', 'noise = "*"', "at_least = 1", 'version = "int"'),
            "no version .* 'int'; did you",
        ),
        (rule_text(*DROP, "at_most = 1", 'name = "a\\u0007b"'), "one line of printable characters"),
        (rule_text(*DROP, "at_most = 1") + "\n" + rule_text(*DROP, "at_most = 2"), "two rules are called"),
    ],
)
def test_a_mistake_in_a_file_of_rules_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(HarnessError, match=message):
        read_rules(tmp_path / "r.toml")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"there is no file .*r.toml; expected a file of rules"):
        read_rules(tmp_path / "r.toml")


def test_rules_are_read_with_whole_numbers_too_and_kept_as_json(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(rule_text(*DROP, 'step = "kernel"', "at_most = 1"))
    (rule,) = read_rules(tmp_path / "r.toml")
    assert rule == Rule("drop", noise="clean", step="kernel", at_most=1.0)
    assert rule.title == "kernel drop on clean"
    assert rule.bound_text == "at most 1 point"
    for rules in (DEFAULT_RULES, DEFAULT_AGAINST, (rule,)):
        stored = json.loads(json.dumps([each.describe() for each in rules]))
        assert rules_from_tables(stored, "there") == rules


@pytest.mark.parametrize(
    ("noise", "rows"),
    [
        ("clean", ["clean"]),
        ("fog", ["fog"]),
        ("fog:2", ["fog:2"]),
        ("resize", ["resize:nearest"]),
        ("all noises", ["all noises"]),
        ("*", ["clean", "fog:1", "fog:2", "resize:nearest"]),
    ],
)
def test_a_noise_stands_for_rows_of_the_report(noise: str, rows: list[str]) -> None:
    rule = Rule("accuracy", noise=noise, engine="ort-cpu", at_least=1.0)
    assert places(rule, GRID) == [Place(row, "ort-cpu", "integer") for row in rows]


def test_all_noises_of_a_run_with_one_noise_are_that_noise() -> None:
    rule = Rule("accuracy", noise="all noises", engine="ort-cpu", at_least=1.0)
    one = Grid((("clean", ""), ("fog", "1")), GRID.contenders, 16)
    assert [place.row for place in places(rule, one)] == ["fog:1"]
    with pytest.raises(HarnessError, match="'all noises' needs a noise, and this run measures clean pictures only"):
        places(rule, Grid((("clean", ""),), GRID.contenders, 16))


@pytest.mark.parametrize(
    ("rule", "engines"),
    [
        (Rule("drop", noise="clean", at_most=1.0), ["ort-cpu", "openvino"]),
        (Rule("drop", noise="clean", at_most=1.0, engine="*"), ["ort-cpu", "openvino"]),
        (Rule("changed", noise="clean", at_most=1.0, step="kernel"), ["ort-cpu"]),
        (Rule("changed", noise="clean", at_most=1.0, step="engine"), ["openvino"]),
        (Rule("accuracy", noise="clean", at_least=1.0, version="fp32"), ["ort-cpu", "openvino", "ort-cuda"]),
        (Rule("integer_share", at_least=1.0), ["ort-cpu", "openvino"]),
        (Rule("integer_share", at_least=1.0, engine="openvino"), ["openvino"]),
        (Rule("failed", at_most=1.0), [""]),
    ],
)
def test_a_rule_is_about_every_engine_that_has_its_quantity(rule: Rule, engines: list[str]) -> None:
    assert [place.engine for place in places(rule, GRID)] == engines


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Rule("drop", noise="fgo", at_most=1.0), "no noise in this run 'fgo'; did you mean 'fog'"),
        (Rule("drop", noise="fog:7", at_most=1.0), "no setting of 'fog' in this run '7'. Known: 1, 2"),
        (Rule("drop", noise="clean", at_most=1.0, engine="ort-cup"), "no engine in this run 'ort-cup'; did you mean"),
        (
            Rule("drop", noise="clean", at_most=1.0, engine="ort-cuda"),
            "drop needs the step 'total' on ort-cuda, and this run has ort-cpu:fp32",
        ),
        (
            Rule("accuracy", noise="clean", at_least=1.0, engine="openvino", version="simulated"),
            "needs the version 'simulated' on openvino",
        ),
        (Rule("relative_mce", at_most=1.0), "needs a model of ImageNet's 1,000 classes; this one has 16"),
        (Rule("change", noise="clean", at_least=0.0), "needs a run to compare with"),
    ],
)
def test_a_rule_about_what_a_run_has_not_is_refused(rule: Rule, message: str) -> None:
    with pytest.raises(HarnessError, match=message):
        places(rule, GRID)


def test_mce_needs_every_corruption_at_every_severity() -> None:
    rule = Rule("mce", at_most=80.0)
    full = tuple((noise, str(level)) for noise in ALEXNET_ERROR for level in range(1, 6))
    assert len(places(rule, Grid(full, GRID.contenders, 1000))) == 2
    with pytest.raises(HarnessError, match="mce needs all severities of jpeg_compression"):
        places(rule, Grid(full[:-1], GRID.contenders, 1000))
    with pytest.raises(HarnessError, match="relative_mce needs clean pictures"):
        places(Rule("relative_mce", at_most=80.0), Grid(full, GRID.contenders, 1000))


def test_every_name_that_a_rule_may_use_is_a_row_of_the_report(finished: Path) -> None:
    report = report_from_store(Store(finished))
    grid = grid_from_report(report)
    rows = {row.name for row in report.rows}
    for name in ("*", "all noises", *grid.settings):
        assert set(grid.rows(name)) <= rows
    assert rows == set(grid.rows("*")) | set(grid.rows("all noises"))


def test_every_quantity_has_a_unit_that_is_shown() -> None:
    assert {row.unit for row in QUANTITIES.values()} == {"%", "points"}
