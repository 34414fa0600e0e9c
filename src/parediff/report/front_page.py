"""Fronts on a page: the chart with its choice of axes, what it states, and a table of its points."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from parediff.report import page
from parediff.report.figure import figure, show_gain, with_error
from parediff.report.page import Cell
from parediff.report.table import remarks, summary
from parediff.results.axes import Axis, Unit
from parediff.results.front import Front, Gain
from parediff.results.points import Point


def front_document(fronts: Sequence[Front]) -> str:
    """A page of fronts, one section per protocol."""
    first = fronts[0]
    title = f"{first.y.key} against {first.x.key}"
    sections = [
        f"<h2>Protocol <code>{escape(front.protocol or '(none)')}</code></h2>" * (len(fronts) > 1)
        + panel(f"front-{index}", [front])
        + points_table(front)
        for index, front in enumerate(fronts)
    ]
    several = "<p class='soft'>Only runs of one protocol can be compared: each has a front of its own.</p>"
    head = f"<header><h1>{escape(title)}</h1>{several if len(fronts) > 1 else ''}</header>"
    return page.document(f"parediff: {title}", head + "".join(sections))


def panel(name: str, fronts: Sequence[Front]) -> str:
    """A chart that shows one of the fronts, by choice of axes; the first is shown first."""
    views = {f"{front.x.key} {front.y.key}": view(front) for front in fronts}
    first = fronts[0]
    xs = {front.x.key: front.x for front in fronts}
    ys = {front.y.key: front.y for front in fronts}
    choices = _choice("y", "quality", ys, first.y.key) + _choice("x", "cost", xs, first.x.key)
    bar = f'<div class="bar">{choices}</div>' if len(views) > 1 else ""
    return (
        f'<div class="card panel" data-views="{name}" data-x="{escape(first.x.key)}" data-y="{escape(first.y.key)}">'
        f'{bar}<div class="plot"></div><div class="caption"></div></div>{page.data(name, views)}'
    )


def view(front: Front) -> dict[str, Any]:
    """What the chart shows for one choice of axes."""
    return {
        "figure": figure(front, titled=False).to_plotly_json(),
        "summary": f"{summary(front)} A filled point is on the front, a hollow one is dominated; hovering names it.",
        "remarks": remarks(front),
    }


def points_table(front: Front) -> str:
    """The points of a front, cheapest first."""
    x_unit, y_unit = units(front)
    arrow = "↓" if front.y.better == "lower" else "↑"
    heads = [
        ("front", "★: no other point is at least as cheap and at least as good"),
        ("run", "methods with their bits; uncompressed: the sampler's steps"),
        (f"{in_unit(front.x.name, x_unit)} ↓", front.x.key),
        (f"{in_unit(front.y.name, y_unit)} {arrow}", f"{front.y.key}, ± one standard error"),
        ("against fewer steps", "gain over the uncompressed model at the same cost, on the line of fewer steps"),
        ("runs", "how many, of different seeds"),
    ]
    rows = zip(front.points, front.on_front, front.gains, strict=True)
    return page.table(heads, [_row(*row, x_unit, y_unit) for row in rows])


def units(front: Front) -> tuple[Unit, Unit]:
    """The units that read well for this front."""
    return front.x.unit([point.x for point in front.points]), front.y.unit([point.y for point in front.points])


def in_unit(name: str, unit: Unit) -> str:
    """'GBOPs', 'latency_s, ms' or the name alone."""
    if not unit.symbol or name in unit.symbol.lower():
        return unit.symbol or name
    return f"{name.removesuffix('_s').removesuffix('_bytes').replace('_', ' ')} {unit.symbol}"


def gain_cell(gain: Gain | None, unit: Unit) -> Cell:
    """Green where better beyond doubt, red where worse."""
    if gain is None:
        return Cell("", None, numeric=True)
    return Cell(f'<span class="{gain.verdict}">{escape(show_gain(gain, unit))}</span>', gain.value, numeric=True)


def _row(point: Point, on_front: bool, gain: Gain | None, x_unit: Unit, y_unit: Unit) -> list[Cell]:
    return [
        Cell('<span class="star">★</span>' if on_front else "", 0 if on_front else 1),
        page.text(point.label),
        Cell(escape(with_error(point.x, point.x_stderr, x_unit)), point.x, numeric=True),
        Cell(escape(with_error(point.y, point.y_stderr, y_unit)), point.y, numeric=True),
        gain_cell(gain, y_unit),
        Cell(str(len(point.ids)), len(point.ids), numeric=True),
    ]


def _choice(letter: str, words: str, axes: dict[str, Axis], first: str) -> str:
    buttons = "".join(
        f'<button data-axis="{letter}" data-key="{escape(key)}" aria-pressed="{str(key == first).lower()}">'
        f"{escape(axis.name)}</button>"
        for key, axis in axes.items()
    )
    return f'<div class="choice"><span>{words}</span>{buttons}</div>'
