"""A colour and a marker for every combination of methods: the same on every page, never twice while pairs are free."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

# Each reads on white and on near-black at 3:1 or more; neighbours in the list differ for colour-blind readers too.
COLOURS = ("#2f7de1", "#d9532c", "#0f9b8e", "#9a5cd0", "#b07d00", "#d6409f", "#5b8c2a", "#7d766d")
MARKERS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x", "pentagon")

Style = tuple[str, str]


def styles(combinations: Iterable[Sequence[str]]) -> dict[str, Style]:
    """(colour, marker) by 'a + b': where a hash of the name points, or the next free pair in order of the names."""
    taken: dict[int, str] = {}
    for name in sorted({" + ".join(methods) for methods in combinations} - {""}):
        place = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % SLOTS
        free = (slot % SLOTS for slot in range(place, place + SLOTS) if slot % SLOTS not in taken)
        taken[next(free, place + len(taken) * SLOTS)] = name
    return {name: _pair(slot % SLOTS) for slot, name in taken.items()}


SLOTS = len(COLOURS) * len(MARKERS)


def _pair(slot: int) -> Style:
    """Neighbouring slots differ in colour first."""
    return COLOURS[slot % len(COLOURS)], MARKERS[slot // len(COLOURS)]
