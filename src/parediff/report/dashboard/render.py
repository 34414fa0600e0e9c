"""The page over all records: fronts by choice of axes, every run, its pictures, its settings, what failed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from parediff.errors import RequestError
from parediff.report import page
from parediff.report.dashboard.runs import failures, gallery, named, runs_table, settings_of_all
from parediff.report.figure import show_gain
from parediff.report.front_page import panel, units
from parediff.results.axes import Axis, known_keys, number, present
from parediff.results.front import Front, build_fronts
from parediff.results.points import flat
from parediff.results.record import Record, find

COSTS = ("bops", "macs", "latency_s", "nfe", "size_bytes")  # what the chart offers, in this order
MOST_AXES = 8  # of quality and fidelity together


def render(paths: Sequence[str | Path]) -> str:
    """The whole page as HTML."""
    found, warnings = find(paths)
    records = sorted(found, key=lambda record: -(number(record.cost.get("bops")) or 0))  # the full model comes first
    if not records:
        raise RequestError("PATH", ", ".join(map(str, paths)), "a folder with records below it is accepted")
    finished = [record for record in records if record.status == "finished"]
    failed = [record for record in records if record.status == "failed"]
    protocols = by_protocol(finished)
    names = named(records)
    body = [_header(records, failed), _warnings(warnings), _why_several(protocols)]
    for index, (protocol, own) in enumerate(protocols.items()):
        body.append(_section(f"protocol-{index}", protocol, own, names, alone=len(protocols) == 1))
    body += [failures(failed, names), settings_of_all(records, names), _footer()]
    return page.document(f"parediff: {_studies(records)}", "".join(body))


def by_protocol(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records by protocol, the largest group first."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.protocol, []).append(record)
    return dict(sorted(groups.items(), key=lambda entry: -len(entry[1])))


def fronts_of(records: Sequence[Record]) -> list[Front]:
    """The fronts of records of one protocol, for every pair of a cost and a worth that some record has both of."""
    fronts = []
    for y in worths(records):
        for x in COSTS:
            axis = present(f"cost.{x}", records)
            if axis and any(axis.value(record) is not None and y.value(record) is not None for record in records):
                fronts += build_fronts(records, axis.key, y.key)
    return fronts


def worths(records: Sequence[Record]) -> list[Axis]:
    """Quality first, then fidelity."""
    keys = [key for key in known_keys(records) if key.startswith(("quality.", "fidelity."))]
    found = [present(key, records) for key in keys]
    return [axis for axis in found if axis is not None][:MOST_AXES]


def _header(records: Sequence[Record], failed: Sequence[Record]) -> str:
    models = ", ".join(sorted({record.model for record in records if record.model}))
    counts = f"{len(records)} run{'s' * (len(records) > 1)}" + (f" of {escape(models)}" if models else "")
    trouble = f', <span class="failed">{len(failed)} failed</span>' if failed else ""
    return f'<header><h1>{escape(_studies(records))}</h1><p class="soft">{counts}{trouble}</p></header>'


def _studies(records: Sequence[Record]) -> str:
    return ", ".join(sorted({record.study for record in records}))


def _warnings(warnings: Sequence[str]) -> str:
    lines = "".join(f"<p>{escape(line)}</p>" for line in warnings)
    return f'<div class="warning small">{lines}</div>' if warnings else ""


def _why_several(protocols: dict[str, list[Record]]) -> str:
    """What the protocols differ in, so that nobody has to guess why runs are apart."""
    if len(protocols) < 2:
        return ""
    details = [flat(own[0].protocol_details) for own in protocols.values()]
    keys = dict.fromkeys(key for entry in details for key in entry)
    differing = [key for key in keys if len({str(entry.get(key)) for entry in details}) > 1]
    told = f" They differ in {', '.join(differing)}." if differing else ""
    sentence = f"Measured under {len(protocols)} protocols; only equal ones share a front.{told}"
    return f'<p class="soft">{escape(sentence)}</p>'


def _section(name: str, protocol: str, records: Sequence[Record], names: dict[str, str], *, alone: bool) -> str:
    fronts = fronts_of(records)
    heading = "" if alone else f"<h2>Protocol <code>{escape(protocol or '(none)')}</code></h2>"
    chart = (
        _tiles(fronts[0]) + panel(name, fronts) if fronts else '<p class="soft">No run has both a cost and a worth.</p>'
    )
    details = f"<summary>The protocol <code>{escape(protocol or '(none)')}</code></summary>"
    stated = f"<details>{details}{page.settings(flat(records[0].protocol_details))}</details>"
    return (
        heading
        + chart
        + runs_table(records, [front for front in fronts[:1] if any(front.gains)], names)
        + stated
        + gallery(records, names)
    )


def _tiles(front: Front) -> str:
    """The chart's first view in three numbers."""
    _, y_unit = units(front)
    gains = [
        (gain.value, gain, point.label)
        for gain, point in zip(front.gains, front.points, strict=True)
        if gain is not None and gain.verdict == "better"
    ]
    tiles = [
        (f"{sum(front.on_front)} of {len(front.points)}", "points on the front: " + _axes(front)),
        (f"{front.share:.0%}", "of the box up to the reference point is dominated"),
    ]
    if gains:
        _, gain, label = max(gains, key=lambda entry: entry[0])
        tiles.append((show_gain(gain, y_unit), f"{label}: largest gain in {front.y.name} over the line of fewer steps"))
    return f'<div class="tiles">{"".join(_tile(*tile) for tile in tiles)}</div>'


def _tile(figure: str, meaning: str) -> str:
    return f'<div class="tile"><b>{escape(figure)}</b><span>{escape(meaning)}</span></div>'


def _axes(front: Front) -> str:
    return f"{front.y.name} against {front.x.name}"


def _footer() -> str:
    from parediff import __version__

    moment = time.strftime("%Y-%m-%d %H:%M")
    return f"<footer>parediff {__version__}, {moment}. ± is one standard error over seed blocks or seeds.</footer>"


def problem(error: Exception) -> str:
    """A page that says what is wrong."""
    body: Any = f'<header><h1>parediff</h1></header><div class="warning">{escape(str(error))}</div>'
    return page.document("parediff", body)
