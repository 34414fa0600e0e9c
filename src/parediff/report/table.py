"""The front in the terminal."""

from __future__ import annotations

from typing import Any

from parediff.report.figure import show_gain, signed, with_error
from parediff.results.axes import Unit
from parediff.results.difference import Difference
from parediff.results.front import Front, Gain
from parediff.results.points import Point, label

STYLES = {"better": "green", "worse": "red", "unclear": "dim"}
WIDE = 110
ERRORS = (
    "± is one standard error; of a difference over pairs of equal seeds, or of equal seed blocks of single runs, where "
    "their number is told, else of independent errors, which is too wide for runs that share their seeds."
)


def table(front: Front, width: int = WIDE) -> Any:
    """A rich Table, cheapest first; ★ marks what no other point dominates.

    Where `width`, in characters, is below WIDE, ids stand below the labels and leave these their room.
    """
    from rich.table import Table

    x_unit = front.x.unit([point.x for point in front.points])
    y_unit = front.y.unit([point.y for point in front.points])
    arrow = "↓" if front.y.better == "lower" else "↑"
    built = Table(title=f"{front.y.key} against {front.x.key}", title_justify="left", caption_justify="left")
    built.caption = summary(front)
    built.add_column("", style="green", no_wrap=True)
    built.add_column("run", overflow="fold")
    built.add_column(f"{x_unit.symbol or front.x.name} ↓", justify="right", no_wrap=True)
    built.add_column(f"{front.y.name} {arrow}", justify="right", no_wrap=True)
    gaining = any(front.gains)
    if gaining:
        built.add_column("against\nfewer steps", justify="right", no_wrap=True)
    if front.against:
        built.add_column(f"against\n{plain(front.against.name)}", justify="right", overflow="fold")
    if width >= WIDE:
        built.add_column("id", style="dim", no_wrap=True)
    for point, on_front, gain, apart in zip(front.points, front.on_front, front.gains, front.apart, strict=True):
        built.add_row(
            "★" if on_front else "",
            plain(point.label) + (f"\n[dim]{_ids(point)}[/]" if width < WIDE else ""),
            with_error(point.x, point.x_stderr, x_unit),
            with_error(point.y, point.y_stderr, y_unit),
            *([_gain(gain, y_unit)] if gaining else []),
            *([difference_cell(apart, y_unit, front.y.better)] if front.against else []),
            *([_ids(point)] if width >= WIDE else []),
            style="" if on_front else "dim",
        )
    return built


def summary(front: Front) -> str:
    """Hypervolume, its reference point and the protocol, in words."""
    x_unit = front.x.unit([point.x for point in front.points])
    y_unit = front.y.unit([point.y for point in front.points])
    corner = f"{x_unit.show(front.reference[0])}, {y_unit.show(front.reference[1])}"
    return (
        f"Hypervolume {front.hypervolume / x_unit.scale / y_unit.scale:.4g} {x_unit.symbol}×{front.y.name}"
        f" ({front.share:.0%} of its box), reference point ({corner}): {front.reference_rule}."
        f" Protocol {front.protocol or '(none)'}. {ERRORS}"
    )


def remarks(front: Front) -> list[str]:
    """One line for each run that is not on the table, and why."""
    lines = [f"failed: {label(record)} ({record.id}): {_first_line(error)}" for record, error in front.failed]
    lines += [f"left out: {label(record)} ({record.id}): no {key}" for record, key in front.lacking]
    if front.x.key == "cost.latency_s":
        lines.append(
            "seconds of different processes are not comparable: --x ratio.latency_s sets each beside its baseline"
        )
    return lines


def difference_cell(apart: Difference | None, unit: Unit, better: str | None) -> str:
    """Signed, with its error and the number of pairs, in the colour of its verdict; empty where there is none."""
    if apart is None:
        return ""
    pairs = f" ({apart.pairs} pairs)" if apart.pairs else ""
    told = signed(apart.value, apart.stderr, unit) + pairs
    return f"[{STYLES[apart.verdict(better)] if better else 'dim'}]{told}[/]"


def _gain(gain: Gain | None, unit: Unit) -> str:
    if gain is None:
        return ""
    rival = f"\n[yellow]{plain(gain.rival)} beats both[/]" if gain.rival else ""
    return f"[{STYLES[gain.verdict]}]{show_gain(gain, unit)}[/]{rival}"


def _ids(point: Point) -> str:
    return point.id + (f" +{len(point.ids) - 1}" if len(point.ids) > 1 else "")


def say(line: str, console: Any) -> None:
    """A remark below a table, on one line of its own."""
    console.print(printable(line), style="yellow", markup=False, highlight=False, soft_wrap=True)


def printable(text: str) -> str:
    """The text without characters that steer a terminal."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def plain(text: str) -> str:
    """The text as rich shows it, nothing in it read as markup."""
    from rich.markup import escape

    return escape(printable(text))


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:300] if text.strip() else "unknown"
