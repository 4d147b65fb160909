"""Every form of the report says the same, and the JSON keeps its schema."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from rich.console import Console

from harness.report.build import Report, report_from_store
from harness.report.figures import TICK_HEIGHT, accuracy_panels, forest, time_inks
from harness.report.markdown import markdown_report
from harness.report.page import page
from harness.report.terminal import summary_rows, terminal_report
from harness.report.text import headline, percent, points
from harness.report.timing import bottleneck
from harness.store import Store


@pytest.fixture(scope="module")
def report(finished: Path) -> Report:
    return report_from_store(Store(finished))


def test_the_json_keeps_the_documented_schema(finished: Path) -> None:
    schema = json.loads((files("harness.report") / "schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads((finished / "report.json").read_text()), schema)


def test_the_schema_refuses_what_is_not_a_report(finished: Path) -> None:
    schema = json.loads((files("harness.report") / "schema.json").read_text())
    content = json.loads((finished / "report.json").read_text())
    del content["rows"][0]["losses"][0]["difference"]["n"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, schema)


def test_means_are_over_settings_and_noises_weigh_the_same(finished: Path, report: Report) -> None:
    by_name = {row.name: row for row in report.of_kind("condition")}
    noisy = ["gaussian_noise:3", "brightness:2", "resize:nearest"]
    assert report.overall is not None
    for contender, estimate in report.overall.accuracy.items():
        values = [by_name[name].accuracy[contender].value for name in noisy]
        assert estimate.value == pytest.approx(np.mean([value or 0 for value in values]))


def test_losses_add_up(report: Report) -> None:
    for row in report.rows:
        steps = {loss.step: loss.difference.value for loss in row.losses}
        assert steps["total"] == pytest.approx((steps["quantisation"] or 0) + (steps["kernel"] or 0))


def test_better_and_worse_explain_the_difference(report: Report) -> None:
    for row in report.of_kind("condition"):
        for loss in row.losses:
            assert loss.better is not None
            assert loss.worse is not None
            assert loss.difference.value == pytest.approx((loss.better - loss.worse) / loss.difference.n)


def test_markdown_shows_every_row_and_hash(report: Report) -> None:
    text = markdown_report(report)
    for row in report.rows:
        assert f"| {row.name} |" in text
        assert points(row.losses[0].difference) in text
    for facts in report.contenders.values():
        assert str(facts["sha256"]) in text
    assert report.identity["data"]["fingerprint"] in text


def test_the_terminal_table_fits_eighty_columns(report: Report) -> None:
    console = Console(width=80, soft_wrap=True)
    with console.capture() as captured:
        console.print(terminal_report(report))
    lines = captured.get().splitlines()
    table = lines[: next(i for i, line in enumerate(lines) if line.startswith("- "))]
    assert max(len(line.rstrip()) for line in table) <= 80
    for row in summary_rows(report):
        assert any(row.name in line and percent(row.accuracy["ort-cpu:fp32"]) in line for line in table)


def test_the_terminal_table_of_a_second_engine_fits_eighty_columns_whole(two_engines: Report) -> None:
    (row,) = [each for each in two_engines.rows if each.name == "gaussian_noise:3"]
    long = replace(two_engines, rows=(*two_engines.rows, replace(row, name="elastic_transform")))
    console = Console(width=80, soft_wrap=True)
    with console.capture() as captured:
        console.print(terminal_report(long))
    lines = captured.get().splitlines()
    table = lines[next(i for i, line in enumerate(lines) if line.startswith("openvino:")) :]
    assert table[1].split() == ["noise", "fp32", "simulated", "integer", "quantisation", "kernel", "engine"]
    assert any(line.startswith("elastic_transform ") and line.count("-12.5 ±27.3") == 3 for line in table)
    assert "…" not in captured.get()


def test_terminal_and_markdown_name_the_bottleneck(report: Report) -> None:
    console = Console(width=400)
    with console.capture() as captured:
        console.print(terminal_report(report))
    held = bottleneck(report.timing)
    assert held
    for text in (captured.get(), markdown_report(report), page(report)):
        assert held in text


def test_sentences_lead_with_coverage_and_end_with_the_certificate(report: Report) -> None:
    lines = headline(report)
    assert lines[0] == "16 pictures, 4 conditions, 3 versions; none failed."
    assert "100.0 % of multiply-accumulates ran on integer kernels" in lines[-1]


def test_an_unfinished_run_says_so(report: Report) -> None:
    assert headline(replace(report, planned_pictures=99))[0].startswith("16 of 99 pictures so far")


def test_a_run_that_its_rule_ended_is_not_unfinished(report: Report) -> None:
    stopping = {"rule": "ci<5", "looks": [16, 99], "enough_at": 16}
    ended = replace(report, planned_pictures=99, stopping=stopping)
    assert headline(ended)[0].startswith("16 of 99 pictures, ")
    going_on = replace(ended, stopping={**stopping, "enough_at": None})
    assert headline(going_on)[0].startswith("16 of 99 pictures so far, ")


def test_one_of_a_kind_is_not_several(report: Report) -> None:
    contender = next(iter(report.contenders))
    one = replace(
        report,
        pictures=1,
        planned_pictures=1,
        rows=report.rows[:1],
        contenders={contender: report.contenders[contender]},
    )
    assert headline(one)[0] == "1 picture, 1 condition, 1 version; none failed."
    looked = headline(replace(report, stopping={"rule": "ci<5", "looks": [16], "enough_at": None}))
    assert looked[1].endswith("Only one look is planned, at the end, so no interval is widened.")


class Balance(HTMLParser):
    """Checks that tags close in order, and notes every address."""

    VOID = ("meta", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_fetches_nothing(report: Report) -> None:
    html = page(report)
    balance = Balance()
    balance.feed(html)
    assert balance.open == []
    assert balance.addresses == []
    assert "<script" not in html
    assert not re.search(r"url\(|@import|https?://", html)


def test_names_from_outside_cannot_write_html(report: Report) -> None:
    hostile = replace(report, errors=[{"error": "<script>alert(1)</script>", "pictures": 1, "first": "<b>"}])
    assert "<script>alert" not in page(hostile)
    assert "&lt;script&gt;" in page(hostile)


def test_failures_are_listed_in_every_form(report: Report) -> None:
    failed = replace(report, failed_pictures=2, errors=[{"error": "decode: broken", "pictures": 2, "first": "a/1.jpg"}])
    assert "2 failed and count as wrong" in headline(failed)[0]
    assert "| decode: broken | 2 | a/1.jpg |" in markdown_report(failed)
    assert "decode: broken" in page(failed)


def test_labels_of_many_settings_stand_upright_below_their_marks(report: Report) -> None:
    few = accuracy_panels(report)
    assert "rotate(-90)" not in few
    (row,) = [each for each in report.rows if each.name == "resize:nearest"]
    many = [replace(row, setting=f"torch-bilinear-antialias-{number}") for number in range(12)]
    crowded = accuracy_panels(replace(report, rows=(*report.rows, *many)))
    assert crowded.count("rotate(-90)") == 1 + 1 + 12  # clean, nearest and the twelve
    heights = [int(found) for found in re.findall(r'viewBox="0 0 \d+ (\d+)"', crowded)]
    assert max(heights) > 156 + 5 * len("torch-bilinear-antialias-11")


def test_settings_whose_labels_would_lie_on_each_other_are_listed_below_each_other(report: Report) -> None:
    (row,) = [each for each in report.rows if each.name == "resize:nearest"]
    many = [replace(row, setting=f"pillow+torch-bilinear-antialias-{number}") for number in range(33)]
    drawn = accuracy_panels(replace(report, rows=(*report.rows, *many)))
    listed = drawn[drawn.index('aria-label="resize"') :]
    places = [float(y) for y in re.findall(r'y="([\d.]+)" text-anchor="end"', listed)]
    assert len(places) == 1 + 1 + 33  # clean, nearest and the others
    assert all(after - before >= TICK_HEIGHT for before, after in pairwise(places))
    assert listed.count("<circle") == (1 + 1 + 33) * len(report.contenders)
    assert 'aria-label="brightness"' in drawn[: drawn.index('aria-label="resize"')]


@pytest.mark.parametrize("engines", [1, 2, 5])
def test_no_two_kinds_of_work_share_a_colour_and_stages_are_grey(engines: int) -> None:
    stages = ["read", "decode", "colour", "resize", "crop", "sensor", "normalise", "layout"]
    families = [[f"engine {n}:{each}" for each in ("fp32", "simulated", "integer")] for n in range(engines)]
    inks = time_inks([*stages, *(name for family in families for name in family)])
    assert len(set(inks.values())) == len(inks) == 8 + 3 * engines
    assert {inks[name].split()[1] for name in stages} == {"0%"}
    hues = [{inks[name].split()[0] for name in family} for family in families]
    assert all(len(each) == 1 for each in hues)
    assert len(set.union(*hues)) == engines


def test_bar_and_legend_of_the_time_have_the_same_colours(two_engines: Report) -> None:
    html = page(two_engines)
    for name, ink in time_inks(list(two_engines.timing["work_seconds"])).items():
        assert f"<i class='swatch' style='background:{ink}'></i>{name} " in html
        assert re.search(rf'fill="{re.escape(ink)}"><title>{name}: ', html)


def test_every_panel_of_differences_is_as_wide_as_it_is_drawn(report: Report) -> None:
    rows = [(row.name, {loss.step: loss.difference for loss in row.losses}) for row in report.rows]
    for titles in (["kernel"], ["quantisation", "kernel", "total"]):
        drawn = forest(rows, {title: title for title in titles})
        sizes = re.findall(r'style="width: (\d+)px" viewBox="0 0 (\d+) ', drawn)
        assert len(sizes) == drawn.count("<svg") == len(titles)
        assert len(set(sizes)) == 1
        assert all(shown == inside for shown, inside in sizes)
