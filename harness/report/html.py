"""HTML: the frame of every page, and the parts that recur. A page opens from disk, without script or network."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any


def document(title: str, body: str) -> str:
    """A whole page around a body, which is HTML already."""
    style = (files("harness.report") / "style.css").read_text()
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body>{body}</body></html>\n"
    )


def findings(found: Iterable[Mapping[str, Any]]) -> str:
    """What a reader must know, a paragraph each."""
    return "".join(
        f"<p class='finding {escape(finding['severity'])}'><b>{escape(finding['severity'])}</b> "
        f"({escape(finding['check'])}): {escape(finding['message'])}</p>"
        for finding in found
    )


def table(header: Sequence[str], lines: Iterable[tuple[str, Sequence[str]]], sentences: Collection[str] = ()) -> str:
    """A table; every line is its CSS class and its cells, which are HTML already.

    Args:
        sentences: header cells above sentences, which begin where these do.
    """
    kinds = dict.fromkeys(sentences, " class='text'")
    head = "".join(f"<th{kinds.get(cell, '')}>{escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr class='{kind}'>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>" for kind, cells in lines
    )
    return f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
