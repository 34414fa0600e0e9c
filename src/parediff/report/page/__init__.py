"""Self-contained HTML pages with charts: one file, no network, light and dark."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class Cell:
    """A cell of a table: HTML to show, and the value to sort by."""

    html: str
    sort: float | str | None = None
    numeric: bool = False
    name: bool = False  # kept on one line


def document(title: str, body: str) -> str:
    """A whole page, with its style, its script and plotly inside."""
    from plotly.offline import get_plotlyjs

    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{_asset('page.css')}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        f"<script>{get_plotlyjs()}</script>\n<script>{_asset('page.js')}</script>\n</body>\n</html>\n"
    )


def data(name: str, content: Any) -> str:
    """JSON that the page's script reads; no text in it can end the element."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{escape(name)}">{text}</script>'


def table(heads: Sequence[tuple[str, str]], rows: Iterable[Sequence[Cell]]) -> str:
    """A table that sorts at a click; heads are (text, explanation)."""
    top = "".join(
        f'<th scope="col"{_several(text)}><button title="{escape(why)}">{escape(text)}</button></th>'
        for text, why in heads
    )
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f'<div class="wide"><table class="sortable"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def text(content: str, sort: float | str | None = None) -> Cell:
    """A cell of plain text."""
    return Cell(escape(content), content if sort is None else sort, name=True)


def settings(values: Mapping[str, Any]) -> str:
    """Flat keys and values as a list of definitions."""
    shown = "".join(f"<dt>{escape(key)}</dt><dd>{escape(_value(value))}</dd>" for key, value in values.items())
    return f'<dl class="settings">{shown}</dl>'


def _cell(cell: Cell) -> str:
    sort = "" if cell.sort is None else f' data-sort="{escape(str(cell.sort))}"'
    kind = ' class="number"' if cell.numeric else ' class="name"' if cell.name else ""
    return f"<td{kind}{sort}>{cell.html}</td>"


def _several(head: str) -> str:
    """A head of several words may break, which keeps a column of numbers narrow."""
    return ' class="several"' if " " in head.rstrip(" ↓↑") else ""


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _asset(name: str) -> str:
    return files(__name__).joinpath(name).read_text(encoding="utf-8")
