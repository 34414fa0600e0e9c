"""What families of methods reach and what composing them adds, as a table of the terminal and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from parediff.report.figure import with_error
from parediff.report.table import difference_cell, plain
from parediff.results.axes import Axis, Unit
from parediff.results.families import Composition
from parediff.results.front import Front
from parediff.results.points import Point

NONE = "steps and solvers alone"


def families_table(front: Front, found: Sequence[Composition], *, log: bool = False) -> Any:
    """A row for each set of families that some point has; volumes as shares of what all points together reach.

    `log` says that they were taken over the logarithm of the cost.
    """
    from rich.table import Table

    share = Unit(found[-1].volume / 100 or 1.0, "", "%")
    over = f" over the logarithm of {front.x.name}" if log else ""
    table = Table(title=f"hypervolume by families of methods{over}", title_justify="left", caption_justify="left")
    table.caption = (
        "A row holds the points of its families and of fewer, in % of the volume of all; added: over fewer families. "
        "± is one standard error, jackknifed over common seeds, or over the seed blocks of single runs."
    )
    for heading in ("families", "points", "volume, %", "added, %", "on the front"):
        table.add_column(
            heading, justify="left" if heading in ("families", "on the front") else "right", overflow="fold"
        )
    for one in found:
        table.add_row(
            plain(" + ".join(one.families) or NONE),
            str(one.points),
            with_error(one.volume, one.stderr, share),
            difference_cell(one.added, share, "higher"),
            plain(_where(one.ahead, front.x)),
        )
    return table


def _where(ahead: Sequence[Point], x: Axis) -> str:
    """How many, and over which costs."""
    if not ahead:
        return "none"
    unit = x.unit([point.x for point in ahead])
    ends = dict.fromkeys(unit.show(point.x) for point in (ahead[0], ahead[-1]))
    return f"{len(ahead)}, at {' to '.join(ends)}"


def families_json(found: Sequence[Composition]) -> list[dict[str, Any]]:
    """The same in the record's own units."""
    return [
        {
            "families": list(one.families),
            "points": one.points,
            "on_front": [point.id for point in one.ahead],
            "hypervolume": one.volume,
            "stderr": one.stderr,
            "added": None if one.added is None else vars(one.added),
        }
        for one in found
    ]
