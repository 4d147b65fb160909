"""The list of layers by what quantising each one costs, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from harness.report.text import percent, plus_minus
from harness.sensitivity import LayerCost, Study, engine_for


def sensitivity_report(study: Study, costs: Sequence[LayerCost]) -> Group:
    """One line per layer, the most costly first, and what may be kept in float."""
    engine, options = engine_for(study.wish.target)
    kernels = "integer kernels" if options.integer_kernels else "simulation"
    pictures = next(iter(costs[0].costs.values())).difference.n if costs else 0
    table = Table(
        title=f"Each layer quantised alone for {study.wish.target} ({kernels} of {engine}), {pictures} pictures; "
        f"accuracy in points ± the longer side of the 95 % interval",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    table.add_column("layer")
    for condition in study.conditions:
        for title in (condition.name, "worse / better", "changed", "logits moved"):
            table.add_column(title, justify="right", no_wrap=True)
    for cost in costs:
        cells = []
        for each in cost.costs.values():
            cells += [plus_minus(each.difference), f"{each.worse} / {each.better}", percent(each.changed)]
            cells.append(percent(each.distance))
        table.add_row(cost.layer, *cells)
    return Group(table, Text(_advice(costs)))


def _advice(costs: Sequence[LayerCost]) -> str:
    costly = [
        cost.layer
        for cost in costs
        if any(each.difference.high is not None and each.difference.high < 0 for each in cost.costs.values())
    ]
    if not costly:
        return "No layer alone costs accuracy for certain: every interval includes no change."
    return f"For certain costly: keep them in float with --keep-float '{','.join(costly)}'"
