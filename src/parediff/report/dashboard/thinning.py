"""Which runs a page shows where there are more than it can hold."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from parediff.report.dashboard.collection import Collection
from parediff.results.number import number
from parediff.results.pareto import non_dominated

LIMIT = 20_000
COSTS = ("cost.bops", "cost.macs", "cost.nfe", "cost.size_bytes", "ratio.latency_s")


@dataclass(frozen=True)
class Selection:
    """Places of the runs that are shown, in order, and the sentence that says what is not; None where all are."""

    places: list[int]
    statement: str | None


def selection(collection: Collection, limit: int = LIMIT) -> Selection:
    """All runs up to the limit; beyond it all fronts and lines of fewer steps, then an even choice of the rest."""
    total = collection.total
    if total <= limit:
        return Selection(list(range(total)), None)
    kept = _kept(collection)
    ids = [str(value) for value in collection.values("id")]
    rest = sorted((place for place in range(total) if place not in kept), key=lambda place: _even(ids[place]))
    places = sorted([*kept, *rest[: max(0, limit - len(kept))]])
    told = (
        f"{len(places):,} of {total:,} runs are shown: all {len(kept):,} that are uncompressed or on a front of "
        f"any cost and worth over single runs, and an even choice, by a hash of the id, of the others. "
        f"{total - len(places):,} are left out of chart, table, counts and exports; name fewer folders to see them."
    )
    return Selection(places, told)


def _even(run_id: str) -> bytes:
    return sha256(run_id.encode()).digest()[:8]


def _kept(collection: Collection) -> set[int]:
    """Baselines, and what no other run of its protocol dominates on some pair of axes."""
    methods, status, protocols = (collection.values(key) for key in ("methods", "status", "protocol"))
    finished = [place for place, value in enumerate(status) if value == "finished"]
    kept = {place for place in finished if not methods[place]}
    groups: dict[object, list[int]] = {}
    for place in finished:
        groups.setdefault(protocols[place], []).append(place)
    worths = [column for column in collection.columns.values() if column.section in ("quality", "fidelity")]
    for worth in worths:
        ys = collection.values(worth.key)
        for cost in COSTS:
            xs = collection.values(cost)
            for places in groups.values():
                usable = [p for p in places if number(xs[p]) is not None and number(ys[p]) is not None]
                points = [(float(xs[p] or 0), float(ys[p] or 0)) for p in usable]
                on = non_dominated(points, ("lower", worth.better or "lower"))
                kept.update(place for place, is_on in zip(usable, on, strict=True) if is_on)
    return kept
