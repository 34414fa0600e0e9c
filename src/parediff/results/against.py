"""How much the points of a front differ from one run, or each from its own uncompressed model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from parediff.errors import RequestError, nearest
from parediff.results.axes import DIFFERENCE, Axis
from parediff.results.contrast import contrast, difference
from parediff.results.difference import Difference, from_baseline
from parediff.results.points import Point

BASELINE = "baseline"


@dataclass(frozen=True)
class Against:
    """What is compared with, and for each point in turn its difference in y; None where it has none."""

    name: str
    differences: tuple[Difference | None, ...]


def against(asked: str, points: Sequence[Point], y: Axis) -> Against | None:
    """`baseline`: each point against the uncompressed model in its own record; else the label or (the start of) the id
    of a run. None where no point goes by that name.
    """
    if asked == BASELINE:
        found = [_from_own(point, y) for point in points]
        return Against("its baseline", tuple(found)) if any(found) else None
    rival = _named(asked, points)
    if rival is None:
        return None
    own = [None if point is rival else difference(rival.runs, point.runs, y) for point in points]
    return Against(rival.label, tuple(own))


def refused(asked: str, points: Sequence[Point], y: Axis) -> RequestError:
    """Why nothing could be compared with what was asked for."""
    if asked == BASELINE:
        return RequestError("against", asked, f"the label or id of a run: none has {y.key} of its baseline")
    labels = [point.label for point in points]
    told = f"{BASELINE}, or the label or id of a run: {', '.join(labels[:6])}{', …' if len(labels) > 6 else ''}"
    return RequestError("against", asked, f"{told}.{nearest(asked, [BASELINE, *labels])}")


def _from_own(point: Point, y: Axis) -> Difference | None:
    if y.section != "quality":
        return None
    if len(point.runs) == 1:
        return from_baseline(point.runs[0], y.name)
    return contrast([(1.0, point.runs)], Axis(DIFFERENCE, y.name, y.better))


def _named(asked: str, points: Sequence[Point]) -> Point | None:
    """The point of that label, else the one whose id begins so; RequestError where several do."""
    found = [point for point in points if point.label == asked]
    found = found or [point for point in points if any(name.startswith(asked) for name in point.ids)]
    if len(found) > 1:
        ids = ", ".join(name for point in found for name in point.ids if name.startswith(asked) or point.label == asked)
        raise RequestError("against", asked, f"more of the id: {ids}")
    return found[0] if found else None
