"""The front as a plotly figure that reads on light and on dark pages."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from parediff.report.label_positions import Spot, place
from parediff.report.palette import Style, styles
from parediff.results.axes import Unit, significant
from parediff.results.front import Front, Gain, Line
from parediff.results.points import Point, flat

WIDTH, HEIGHT = 900.0, 470.0  # of the plotting area, in pixels: what labels are placed for
FONT = "Inter, ui-sans-serif, system-ui, -apple-system, 'Segoe UI', sans-serif"
TEXT, GRID, QUIET = "#5b6472", "rgba(128,136,150,0.22)", "#8b95a5"
LOG_SPREAD = 8.0  # largest over smallest y from which a logarithmic y axis reads better
DASHES = ("dash", "dot", "dashdot", "longdash")
FIRED_LINES = 6  # of proof in a hover box


class Canvas:
    """Axis ranges and the way from values to pixels."""

    def __init__(self, front: Front, log_y: bool | None) -> None:
        xs, ys = [point.x for point in front.points], [point.y for point in front.points]
        self.x_unit, self.y_unit = front.x.unit(xs), front.y.unit(ys)
        self.log_x = min(xs) > 0
        self.log_y = log_y if log_y is not None else min(ys) > 0 and max(ys) / min(ys) > LOG_SPREAD
        self.log_y = self.log_y and min(ys) > 0
        self.x_range = _padded([self.x(value) for value in xs], 0.09)
        self.y_range = _padded([self.y(value) for point in front.points for value in self.reach(point)], 0.1)

    def x(self, value: float) -> float:
        """The coordinate that plotly's range counts in."""
        scaled = value / self.x_unit.scale
        return math.log10(scaled) if self.log_x else scaled

    def y(self, value: float) -> float:
        scaled = value / self.y_unit.scale
        return math.log10(scaled) if self.log_y else scaled

    def reach(self, point: Point) -> tuple[float, float]:
        """The ends of its error bar; on a logarithmic axis half the value at least, as no bar reaches zero."""
        low = point.y - (point.y_stderr or 0)
        return max(low, point.y / 2) if self.log_y else low, point.y + (point.y_stderr or 0)

    def spot(self, point: Point) -> Spot:
        """Pixels, y downwards."""
        across = (self.x(point.x) - self.x_range[0]) / (self.x_range[1] - self.x_range[0])
        up = (self.y(point.y) - self.y_range[0]) / (self.y_range[1] - self.y_range[0])
        return across * WIDTH, (1 - up) * HEIGHT


def figure(front: Front, *, log_y: bool | None = None, titled: bool = True) -> Any:
    """A plotly Figure: the fewer-steps line, every method's points with error bars, the front; log x."""
    import plotly.graph_objects as go

    canvas = Canvas(front, log_y)
    placed = dict(zip((point.id for point in front.points), _positions(front, canvas), strict=True))
    drawing = go.Figure(layout=_layout(front, canvas, titled))
    drawing.add_trace(_staircase(front, canvas))
    for line, dash in zip(front.lines, DASHES * len(front.lines), strict=False):
        drawing.add_trace(_scatter(front, line.points, canvas, placed, _line_style(line, dash)))
    kinds = list(dict.fromkeys(point.methods for point in front.points if not point.is_baseline))
    known = styles(kinds)
    for methods in kinds:
        own = [point for point in front.points if point.methods == methods]
        name = " + ".join(methods)
        drawing.add_trace(_scatter(front, own, canvas, placed, _kind_style(name, known[name])))
    return drawing


def _positions(front: Front, canvas: Canvas) -> list[str | None]:
    spots = [canvas.spot(point) for point in front.points]
    lines: list[list[Spot]] = [[canvas.spot(point) for point in line.points] for line in front.lines]
    lines += [_bar(point, canvas) for point in front.points if point.y_stderr]
    lines.append(_stairs([canvas.spot(point) for point, on in zip(front.points, front.on_front, strict=True) if on]))
    rank = {
        index: 0 if point.is_baseline else 1 if on else 2
        for index, (point, on) in enumerate(zip(front.points, front.on_front, strict=True))
    }
    return place(
        spots, [_text(point) for point in front.points], lines, (WIDTH, HEIGHT), sorted(rank, key=rank.__getitem__)
    )


def _bar(point: Point, canvas: Canvas) -> list[Spot]:
    x, middle = canvas.spot(point)
    per_value = HEIGHT / (canvas.y_range[1] - canvas.y_range[0])
    high = (canvas.y(point.y + (point.y_stderr or 0)) - canvas.y(point.y)) * per_value
    return [(x, middle - high), (x, middle + high)]


def _stairs(spots: Sequence[Spot]) -> list[Spot]:
    """Across, then up or down, as the front is drawn."""
    corners = [[(right[0], left[1]), right] for left, right in itertools.pairwise(spots)]
    return [*spots[:1], *itertools.chain.from_iterable(corners)]


def _text(point: Point) -> str:
    return escape(f"{point.steps} steps" if point.is_baseline and point.steps is not None else point.label)


def _apart(text: str, position: str | None) -> str:
    """Beside a point, a little further away than plotly puts it; nothing where there is no room."""
    if position is None:
        return ""
    return {"middle right": f"\u00a0{text}", "middle left": f"{text}\u00a0"}.get(position, text)


def _line_style(line: Line, dash: str) -> dict[str, Any]:
    return {
        "name": f"uncompressed, fewer {escape(line.name)} steps: the line to beat",
        "mode": "lines+markers+text",
        "line": {"color": QUIET, "width": 1.6, "dash": dash},
        "colour": QUIET,
        "symbol": "circle",
    }


def _kind_style(name: str, style: Style) -> dict[str, Any]:
    return {"name": escape(name), "mode": "markers+text", "colour": style[0], "symbol": style[1]}


def _scatter(
    front: Front, own: Sequence[Point], canvas: Canvas, placed: Mapping[str, str | None], style: Mapping[str, Any]
) -> dict[str, Any]:
    """Filled where on the front, hollow where dominated."""
    status = {entry[0].id: entry[1:] for entry in zip(front.points, front.on_front, front.gains, strict=True)}
    colour, symbol = style["colour"], style["symbol"]
    marker = {
        "size": 9,
        "symbol": [symbol if status[point.id][0] else f"{symbol}-open" for point in own],
        "color": colour,
        "line": {"width": 2, "color": colour},
    }
    return {
        "type": "scatter",
        **{key: value for key, value in style.items() if key not in ("colour", "symbol")},
        "x": [point.x / canvas.x_unit.scale for point in own],
        "y": [point.y / canvas.y_unit.scale for point in own],
        "error_y": _error([point.y_stderr for point in own], canvas.y_unit, colour),
        "error_x": _error([point.x_stderr for point in own], canvas.x_unit, colour),
        "marker": marker,
        "text": [_apart(_text(point), placed[point.id]) for point in own],
        "textposition": [placed[point.id] or "middle right" for point in own],
        "textfont": {"size": 12, "color": colour},
        "customdata": [[point.id] for point in own],
        "hovertext": [_hover(front, point, status[point.id], canvas) for point in own],
        "hoverinfo": "text",
        "cliponaxis": False,
    }


def _error(errors: Sequence[float | None], unit: Unit, colour: str) -> dict[str, Any]:
    array = [(error or 0) / unit.scale for error in errors]
    return {"type": "data", "array": array, "visible": any(array), "color": colour, "thickness": 1.6, "width": 4}


def _staircase(front: Front, canvas: Canvas) -> dict[str, Any]:
    """What is reached at each cost."""
    own = [point for point, on_front in zip(front.points, front.on_front, strict=True) if on_front]
    return {
        "type": "scatter",
        "name": "front",
        "mode": "lines",
        "x": [point.x / canvas.x_unit.scale for point in own],
        "y": [point.y / canvas.y_unit.scale for point in own],
        "line": {"color": "rgba(34,160,107,0.45)", "width": 5, "shape": "hv"},
        "hoverinfo": "skip",
    }


def _hover(front: Front, point: Point, status: tuple[bool, Gain | None], canvas: Canvas) -> str:
    on_front, gain = status
    lines = [f"<b>{escape(point.label)}</b>{' · on the front' if on_front else ''}"]
    lines += [f"{escape(front.y.name)}: {with_error(point.y, point.y_stderr, canvas.y_unit)} {canvas.y_unit.symbol}"]
    lines += [f"{escape(front.x.name)}: {with_error(point.x, point.x_stderr, canvas.x_unit)} {canvas.x_unit.symbol}"]
    if gain is not None:
        rival = f"; {escape(gain.rival)} beats both" if gain.rival else ""
        lines.append(f"against fewer steps: {show_gain(gain, canvas.y_unit)} ({gain.verdict}{rival})")
    proof = [f"{escape(key)}: {escape(_short(value))}" for key, value in flat(point.fired).items()]
    lines += proof[:FIRED_LINES] + (["…"] if len(proof) > FIRED_LINES else [])
    lines.append(
        f"<i>{len(point.ids)} runs: {escape(', '.join(point.ids[:3]))}</i>"
        if point.ids[1:]
        else f"<i>{escape(point.id)}</i>"
    )
    return "<br>".join(lines)


def with_error(value: float, stderr: float | None, unit: Unit) -> str:
    """'12.30 ± 0.37': the error with two digits, the value as far as the error reaches; without one, three digits."""
    shown, error = value / unit.scale, (stderr or 0) / unit.scale
    if not error or not 1e-4 < error < 1e6:
        return significant(shown) + (f" ± {significant(error)}" if error else "")
    places = max(0, 1 - math.floor(math.log10(error)))
    return f"{shown:.{places}f} ± {error:.{places}f}"


def signed(value: float, stderr: float | None, unit: Unit) -> str:
    """'+3.10 ± 0.42'."""
    return f"{'+' if value >= 0 else '−'}{with_error(abs(value), stderr, unit)}"


def show_gain(gain: Gain, unit: Unit) -> str:
    """'≥ +3.10 ± 0.42', in the unit of y."""
    bound = {"exact": "", "at least": "≥ ", "at most": "≤ "}[gain.bound]
    return bound + signed(gain.value, gain.stderr, unit)


def _short(value: Any) -> str:
    text = significant(value) if isinstance(value, float) and math.isfinite(value) else str(value)
    return text if len(text) <= 48 else text[:47] + "…"


def _padded(values: Sequence[float], share: float) -> list[float]:
    low, high = min(values), max(values)
    margin = (high - low) * share or max(abs(high) * 0.1, 0.1)
    return [low - margin, high + margin]


def _ticks(limits: Sequence[float], *, log: bool) -> dict[str, Any]:
    """1, 2, 5, 10, … written out, where a logarithmic axis would abbreviate them."""
    if not log:
        return {}
    decades = range(math.floor(limits[0]), math.ceil(limits[1]) + 1)
    digits = (1,) if len(decades) > 5 else (1, 2, 5)
    values = [digit * 10.0**decade for decade in decades for digit in digits]
    shown = [value for value in values if limits[0] <= math.log10(value) <= limits[1]]
    return {"tickvals": shown, "ticktext": [f"{value:g}" for value in shown]} if len(shown) > 1 else {}


def _layout(front: Front, canvas: Canvas, titled: bool) -> dict[str, Any]:
    arrow = "↓ lower is better" if front.y.better == "lower" else "↑ higher is better"
    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": QUIET, "ticks": "outside", "tickcolor": QUIET}
    title = {"text": f"{front.y.unit([]).meaning} against {canvas.x_unit.meaning}", "x": 0.01, "xanchor": "left"}
    scales = {True: "log", False: "linear"}
    return {
        "template": "none",
        "title": title if titled else None,
        "font": {"family": FONT, "size": 13, "color": TEXT},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 72, "r": 24, "t": 64 if titled else 16, "b": 96},
        "legend": {"orientation": "h", "y": -0.17, "x": 0, "xanchor": "left", "yanchor": "top"},
        "hoverlabel": {"align": "left", "font": {"family": FONT, "size": 12.5}},
        "xaxis": {
            **axis,
            "title": {"text": f"{canvas.x_unit.title}, ← cheaper", "standoff": 12},
            "type": scales[canvas.log_x],
            "range": canvas.x_range,
            **_ticks(canvas.x_range, log=canvas.log_x),
        },
        "yaxis": {
            **axis,
            "title": {"text": f"{canvas.y_unit.title}, {arrow}", "standoff": 12},
            "type": scales[canvas.log_y],
            "range": canvas.y_range,
            **_ticks(canvas.y_range, log=canvas.log_y),
        },
    }
