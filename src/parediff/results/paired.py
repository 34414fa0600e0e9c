"""Differences between runs of the same seeds: what both share cancels, in the value and in its error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from parediff.errors import RequestError
from parediff.results.jackknife import jackknife_error
from parediff.results.record import Record


@dataclass(frozen=True)
class Difference:
    """`left` minus `right`, in the number's unit, and its standard error over seed blocks where there are several."""

    value: float
    stderr: float | None


def against_baseline(record: Record, key: str) -> Difference | None:
    """A quality of the run minus the uncompressed model's, same seeds; None where either has no number."""
    baseline = record.baseline
    own, other = record.quality.get(key), baseline.get("quality", {}).get(key)
    return _difference(own, other, record.left_out.get(key), baseline.get("left_out", {}).get(key))


def against(left: Record, right: Record, key: str) -> Difference | None:
    """A quality or fidelity of one run minus another's; RequestError unless both are of one protocol and its seeds."""
    if left.protocol != right.protocol:
        raise RequestError("id", right.id, f"a run of the protocol {left.protocol} is accepted")
    if _seeds(left) != _seeds(right):
        raise RequestError("id", right.id, f"a run of the seeds of {left.id} is accepted, in as many blocks")
    own, other = ({**record.quality, **record.fidelity}.get(key) for record in (left, right))
    return _difference(own, other, left.left_out.get(key), right.left_out.get(key))


def _seeds(record: Record) -> tuple[object, ...]:
    asked: Mapping[str, object] = record.config.get("workload") or {}
    return tuple(asked.get(key) for key in ("first_seed", "count", "blocks"))


def _difference(
    own: float | None, other: float | None, left: Sequence[float] | None, right: Sequence[float] | None
) -> Difference | None:
    if own is None or other is None:
        return None
    if not left or not right or len(left) != len(right):
        return Difference(own - other, None)
    return Difference(own - other, jackknife_error([a - b for a, b in zip(left, right, strict=True)]))
