"""The runs on the page: a table of all numbers, sample images, settings, failures."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from parediff.report import page
from parediff.report.dashboard.bits import bits_drawing
from parediff.report.dashboard.pictures import picture
from parediff.report.figure import with_error
from parediff.report.front_page import gain_cell, in_unit
from parediff.report.page import Cell
from parediff.results.axes import Axis, Unit, known_keys, present
from parediff.results.front import Front
from parediff.results.points import flat, labels
from parediff.results.record import Record

COST_COLUMNS = ("bops", "macs", "nfe", "latency_s", "size_bytes", "peak_memory_bytes")
DETAILS = ("sampler", "workload", "quality", "fidelity", "stderr", "cost", "baseline", "fired", "config", "code")
MORE_DETAILS = ("environment", "seconds")


def named(records: Sequence[Record]) -> dict[str, str]:
    """A label for every run's id; runs that differ in seeds alone name their first seed."""
    names = labels(records)
    told = [
        f"{name} · seed {record.workload.get('first_seed', '?')}" if names.count(name) > 1 else name
        for name, record in zip(names, records, strict=True)
    ]
    return {record.id: name for record, name in zip(records, told, strict=True)}


def runs_table(records: Sequence[Record], fronts: Sequence[Front], names: dict[str, str]) -> str:
    """Every finished run with all it was worth and all it cost; gains as on the front that is shown first."""
    axes = [axis for key in _columns(records) if (axis := present(key, records))]
    columns = [(axis, axis.unit([value for r in records if (value := axis.value(r)) is not None])) for axis in axes]
    heads = [("run", "methods with their bits; uncompressed: the sampler's steps")]
    heads += [
        (f"{in_unit(axis.name, unit)}\u00a0{_arrow(axis)}", f"{axis.key}: {unit.meaning}") for axis, unit in columns
    ]
    heads += [(f"{front.y.name} against fewer steps", f"at the same {front.x.name}") for front in fronts]
    rows = [
        [_link(record, names), *(_number(record, *column) for column in columns), *(_gain(record, f) for f in fronts)]
        for record in records
    ]
    return f"<h3>Runs</h3>{page.table(heads, rows)}"


def gallery(records: Sequence[Record], names: dict[str, str]) -> str:
    """Sample images of every run that kept some, side by side; equal places are equal seeds."""
    shown = [(record, source) for record in records if (source := picture(record))]
    if not shown:
        return ""
    cards = "".join(_card(record, source, names[record.id]) for record, source in shown)
    return (
        f'<h3>Samples</h3><p class="soft small">The same place is the same seed.</p><div class="gallery">{cards}</div>'
    )


def failures(records: Sequence[Record], names: dict[str, str]) -> str:
    """What did not finish, and why."""
    if not records:
        return ""
    heads = [("run", "what was asked for"), ("study", ""), ("error", "")]
    rows = [
        [
            _link(record, names),
            page.text(record.study),
            Cell(f'<span class="failed">{escape(record.error or "")}</span>'),
        ]
        for record in records
    ]
    return f"<h2>Failed runs</h2>{page.table(heads, rows)}"


def settings_of_all(records: Sequence[Record], names: dict[str, str]) -> str:
    """Everything on record, run by run, folded."""
    return (
        f'<h2>On record</h2><div class="card">{"".join(_details(record, names[record.id]) for record in records)}</div>'
    )


def _details(record: Record, name: str) -> str:
    parts = [
        f"<h4>{key}</h4>{page.settings(flat(own))}"
        for key in (*DETAILS, *MORE_DETAILS)
        if (own := getattr(record, key))
    ]
    where = f'<p class="small soft mono">{escape(str(record.folder))}</p>' if record.folder else ""
    error = f'<p class="failed">{escape(record.error)}</p>' if record.error else ""
    head = f'<summary>{escape(name)}<span class="mono small">{escape(record.id)}</span></summary>'
    return f'<details id="run-{escape(record.id)}">{head}{where}{error}{bits_drawing(record)}{"".join(parts)}</details>'


def _columns(records: Sequence[Record]) -> list[str]:
    worth = [key for key in known_keys(records) if key.startswith(("quality.", "fidelity."))]
    return [*worth, *(f"cost.{name}" for name in COST_COLUMNS)]


def _arrow(axis: Axis) -> str:
    return "↓" if axis.better == "lower" else "↑"


def _link(record: Record, names: dict[str, str]) -> Cell:
    name = names[record.id]
    return Cell(f'<a href="#run-{escape(record.id)}">{escape(name)}</a>', name, name=True)


def _number(record: Record, axis: Axis, unit: Unit) -> Cell:
    value = axis.value(record)
    if value is None:
        return Cell('<span class="error" title="none on record">–</span>', None, numeric=True)
    shown, _, error = with_error(value, axis.stderr(record), unit).partition(" ± ")
    tail = f' <span class="error">± {escape(error)}</span>' if error else ""
    return Cell(escape(shown) + tail, value, numeric=True)


def _gain(record: Record, front: Front) -> Cell:
    unit = front.y.unit([point.y for point in front.points])
    for point, gain in zip(front.points, front.gains, strict=True):
        if record.id in point.ids:
            return gain_cell(gain, unit)
    return gain_cell(None, unit)


def _card(record: Record, source: str, name: str) -> str:
    worth = [f"{key} {value:.3g}" for key, value in {**record.quality, **record.fidelity}.items() if value is not None]
    told = f'<b>{escape(name)}</b><span class="soft">{escape(", ".join(worth))}</span>'
    image = f'<img src="{source}" alt="Samples of {escape(name)}" loading="lazy">'
    return f"<figure>{image}<figcaption>{told}</figcaption></figure>"
