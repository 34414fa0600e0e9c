"""Where the labels of a scatter go, so that they cover neither points nor one another."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

CHARACTER, HEIGHT, GAP = 6.8, 14.0, 9.0  # pixels, of the 12 px label font; from the point's middle to the label
POSITIONS = {  # plotly's name: label's middle relative to the point, in half widths and half heights beyond the gap
    "middle right": (1, 0),
    "top right": (1, -1),
    "top center": (0, -1),
    "bottom right": (1, 1),
    "bottom center": (0, 1),
    "top left": (-1, -1),
    "bottom left": (-1, 1),
    "middle left": (-1, 0),
}
OUTSIDE, ON_LABEL, ON_POINT, ON_LINE = 15.0, 40.0, 10.0, 1.0  # what an overlap costs
TOO_MUCH = 30.0  # from here on a label does more harm than good


class Box(NamedTuple):
    """Pixels, y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


Spot = tuple[float, float]


def place(
    spots: Sequence[Spot],
    texts: Sequence[str],
    lines: Sequence[Sequence[Spot]],
    size: tuple[float, float],
    order: Sequence[int],
) -> list[str | None]:
    """plotly's `textposition` for each spot (pixels, y downwards), taken in `order`, on a drawing of this size.

    None where a label would cover another or a crowd of points, wherever it went.
    """
    markers = [Box(x - 6, y - 6, x + 6, y + 6) for x, y in spots]
    strokes = [Box(x - 2, y - 2, x + 2, y + 2) for line in lines for x, y in along(line)]
    taken: list[Box] = []
    chosen: list[str | None] = [None] * len(spots)
    for index in order:
        others = [marker for other, marker in enumerate(markers) if other != index]
        boxes = {name: label_box(spots[index], texts[index], name) for name in POSITIONS}
        costs = {name: cost(box, others, strokes, taken, size) for name, box in boxes.items()}
        best = min(costs, key=costs.__getitem__)
        if costs[best] < TOO_MUCH:
            taken.append(boxes[best])
            chosen[index] = best
    return chosen


def label_box(spot: Spot, text: str, position: str) -> Box:
    """The pixels that a label takes."""
    across, down = POSITIONS[position]
    half_width, half_height = len(text) * CHARACTER / 2, HEIGHT / 2
    gap = GAP if 0 in (across, down) else GAP * 0.6
    x, y = spot[0] + across * (half_width + gap), spot[1] + down * (half_height + gap)
    return Box(x - half_width, y - half_height, x + half_width, y + half_height)


def cost(
    box: Box, points: Sequence[Box], strokes: Sequence[Box], labels: Sequence[Box], size: tuple[float, float]
) -> float:
    """How much a label would cover there."""
    outside = box.left < 0 or box.top < 0 or box.right > size[0] or box.bottom > size[1]
    return (
        OUTSIDE * outside
        + ON_LABEL * sum(box.meets(other) for other in labels)
        + ON_POINT * sum(box.meets(other) for other in points)
        + ON_LINE * sum(box.meets(other) for other in strokes)
    )


def along(line: Sequence[Spot], step: float = 6.0) -> list[Spot]:
    """Spots every few pixels along a polyline."""
    found: list[Spot] = []
    for (x0, y0), (x1, y1) in itertools.pairwise(line):
        count = max(1, int(max(abs(x1 - x0), abs(y1 - y0)) / step))
        found += [(x0 + (x1 - x0) * k / count, y0 + (y1 - y0) * k / count) for k in range(count + 1)]
    return found
