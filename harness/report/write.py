"""Write: the report in every form, into the run's folder."""

from __future__ import annotations

import json
from pathlib import Path

from harness.report.build import Report
from harness.report.markdown import markdown_report
from harness.report.page import page
from harness.store import Store

HTML, MARKDOWN, JSON = "report.html", "report.md", "report.json"


def write_reports(report: Report, store: Store) -> Path:
    """Write HTML, Markdown and JSON; returns the path of the HTML page."""
    store.write_text(JSON, json.dumps(report.describe(), indent=1))
    store.write_text(MARKDOWN, markdown_report(report))
    return store.write_text(HTML, page(report))
