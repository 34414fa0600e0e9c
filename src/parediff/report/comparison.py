"""Runs side by side as tables of the terminal; the columns are those of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from parediff.report.columns import CONFIG, MEASURED, Column, columns, merged, row
from parediff.report.figure import with_error
from parediff.report.table import ERRORS, difference_cell, plain
from parediff.results.axes import Axis, present
from parediff.results.contrast import difference
from parediff.results.front import different_details
from parediff.results.points import mean_of
from parediff.results.record import Record


@dataclass(frozen=True)
class Side:
    """What is compared: its name, and its runs, which differ in seeds only."""

    name: str
    runs: Sequence[Record]


def settings_table(sides: Sequence[Side]) -> Any:
    """What was asked for differently, key by key."""
    rows = [row(side.runs[0]) for side in sides]
    known = _columns(sides)
    differing = [
        column
        for column in known.values()
        if column.section in ("run", CONFIG) and len({str(own.get(column.key)) for own in rows}) > 1
    ]
    table = _table("settings that differ", sides)
    for column in differing:
        cells = [plain(str(own.get(column.key, "–"))) for own in rows]
        table.add_row(plain(column.key), *cells)
    return table if differing else "The runs differ in nothing that was asked for."


def numbers_table(sides: Sequence[Side]) -> Any:
    """Every number that some run has; under it the difference to the first, with its error."""
    table = _table("costs and quality", sides)
    every = [run for side in sides for run in side.runs]
    for column in _columns(sides).values():
        axis = present(column.key, every) if column.section in MEASURED else None
        if axis is not None:
            table.add_row(_head(column, axis, every), *(_cell(sides[0], side, axis, every) for side in sides))
    table.caption = f"Differences are to the first. {ERRORS}"
    return table


def protocol_remark(sides: Sequence[Side]) -> list[str]:
    """A line for every run that was measured otherwise than the first."""
    first = sides[0].runs
    return [
        f"{side.name} was measured under another protocol, its quality is not comparable: it differs in "
        f"{', '.join(different_details(first, side.runs)) or 'what its details do not say'}"
        for side in sides[1:]
        if side.runs[0].protocol != first[0].protocol
    ]


def _columns(sides: Sequence[Side]) -> dict[str, Column]:
    known: dict[str, Column] = {}
    for side in sides:
        known = merged(known, columns(side.runs[0]))
    return known


def _table(title: str, sides: Sequence[Side]) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column("", overflow="fold")
    for side in sides:
        seeds = f"\n{len(side.runs)} seeds" if len(side.runs) > 1 else ""
        table.add_column(plain(side.name) + seeds, justify="right", overflow="fold")
    return table


def _head(column: Column, axis: Axis, every: Sequence[Record]) -> str:
    unit = axis.unit([value for run in every if (value := axis.value(run)) is not None])
    arrow = {"lower": " ↓", "higher": " ↑", None: ""}[column.better]
    return plain(f"{column.title}{arrow}" + (f", {unit.symbol}" if unit.symbol else ""))


def _cell(first: Side, side: Side, axis: Axis, every: Sequence[Record]) -> str:
    values = [run for run in side.runs if axis.value(run) is not None]
    if not values:
        return "–"
    unit = axis.unit([value for run in every if (value := axis.value(run)) is not None])
    own = with_error(*mean_of(values, axis), unit)
    apart = None if side is first else difference(first.runs, side.runs, axis)
    if apart is None:
        return own
    return f"{own}\n{difference_cell(apart, unit, axis.better if axis.section != 'seconds' else None)}"
