"""`parediff front`: the fronts in the terminal, as JSON and as a page."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from parediff.atomic import tidy, write_atomically
from parediff.errors import RequestError
from parediff.report.dashboard.write import write_either
from parediff.report.families import families_json, families_table
from parediff.report.figure import figure
from parediff.report.table import remarks, say, table
from parediff.results.families import Composition, compositions
from parediff.results.front import Front, build_fronts, left_out
from parediff.results.lease import lease
from parediff.results.points import seeded
from parediff.results.record import Record, find
from parediff.validation import require


def front_command(
    paths: Sequence[str | Path],
    x: str | None,
    y: str | None,
    json_file: str | None,
    html_file: str | None,
    console: Any,
    compared: str | None = None,
    families: bool = False,
    log: bool = False,
    seeds: int = 1,
) -> int:
    """Show the fronts over all records below the paths and write what was asked for; the exit code.

    `families` with `log` takes their volumes over the logarithm of the cost; points of fewer than `seeds` stay away.
    """
    require(families or not log, "--log", log, "--log with --families")
    records, warnings = find(paths)
    if not records:
        raise RequestError("PATH", ", ".join(map(str, paths)), f"a folder with records below it{_unread(warnings)}")
    if seeds > 1:
        records, few = seeded(records, seeds)
        paths = [record.folder for record in records if record.folder]
        warnings = [*warnings, *([f"{few} point{'s' * (few > 1)} of fewer than {seeds} seeds left out"] if few else [])]
    fronts = build_fronts(records, x, y, compared=compared)
    show(fronts, records, warnings, console)
    composed = {front.protocol: compositions(front, log=log) for front in fronts} if families else {}
    for front in fronts if families else ():
        console.print(families_table(front, composed[front.protocol], log=log))
    if json_file:
        write_atomically(Path(json_file), as_json(fronts, composed))
    if html_file:
        write_either(paths, Path(html_file), (fronts[0].x.key, fronts[0].y.key))
    return 0


def study_front(
    folder: Path,
    x: str | None,
    y: str | None,
    console: Any,
    others: Sequence[str | Path] = (),
    own: Collection[str] = (),
) -> tuple[dict[str, Any], Any, Path]:
    """A study's front on screen, as front.json and front.html in its folder; (the first, plotly figure, page).

    Records below `others` are on it too. The runs whose ids are `own` go first where several protocols lie there.
    Axes that no record has give way to the default ones, and say so: the study's work is not to be lost on them.
    """
    paths = [folder, *others]
    records, warnings = find(paths)
    fronts = _fronts_or_default(records, x, y, warnings, own)
    show(fronts, records, warnings, console)
    with lease(folder, wait=True):
        tidy(folder)
        write_atomically(folder / "front.json", as_json(fronts))
        page = write_either(paths, folder / "front.html", (fronts[0].x.key, fronts[0].y.key))
    return fronts[0].to_json(), figure(fronts[0]), page


def show(fronts: Sequence[Front], records: Sequence[Record], warnings: Sequence[str], console: Any) -> None:
    """A table per protocol, then one line for everything that is not on one."""
    for front in fronts:
        console.print(table(front, console.width))
        for line in remarks(front):
            say(line, console)
    for other in left_out(fronts[0], records):
        say(str(other), console)
    for line in warnings:
        say(line, console)


def as_json(fronts: Sequence[Front], composed: Mapping[str, Sequence[Composition]] | None = None) -> str:
    """front.json: the first front; where there are several protocols, all of them under `fronts` too.

    `composed` are the families of each front by its protocol, where they were asked for.
    """
    written = [front.to_json() for front in fronts]
    for front, entry in zip(fronts, written, strict=True):
        if composed:
            entry["families"] = families_json(composed[front.protocol])
    content = written[0]
    if len(fronts) > 1:
        content = content | {"fronts": written}
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _fronts_or_default(
    records: Sequence[Record], x: str | None, y: str | None, warnings: list[str], own: Collection[str]
) -> list[Front]:
    try:
        return build_fronts(records, x, y, own=own)
    except RequestError as error:
        fronts = build_fronts(records, own=own)
        warnings.append(f"{error} The default axes are shown.")
        return fronts


def _unread(warnings: Sequence[str]) -> str:
    return f"; {len(warnings)} could not be read, the first: {warnings[0]}" if warnings else ""
