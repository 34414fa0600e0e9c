"""Runs whose worker was lost: killed by the system for its memory, or by somebody; the others go on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool

from parediff.config.request import Request
from parediff.pipeline.attempt import Outcome, failed
from parediff.results import record as records
from parediff.results.lease import is_held, lease
from parediff.results.progress import NAME as PROGRESS

TRIES = 2  # a worker may be lost to somebody else's memory; one that is lost twice is lost to its own run


class WorkerLost(RuntimeError):
    """The process that worked on a run is gone without a word."""


def through(
    requests: Sequence[Request], launch: Callable[[Sequence[int]], list[Outcome]], say: Callable[[str], None]
) -> list[Outcome]:
    """The outcomes of all runs, in order. Where workers are lost, their runs are tried again, then fail; on record."""
    outcomes: dict[int, Outcome] = {}
    losses: Counter[int] = Counter()
    while len(outcomes) < len(requests):
        waiting = [place for place in range(len(requests)) if place not in outcomes]
        stamps = {place: _stamp(requests[place]) for place in waiting}
        try:
            outcomes.update(zip(waiting, launch(waiting), strict=True))
        except BrokenProcessPool:
            outcomes.update(_written(requests, stamps))
            lost = [place for place in waiting if place not in outcomes and _is_lost(requests[place])]
            losses.update(lost)
            for place in lost or [place for place in waiting if place not in outcomes][:1]:
                if losses[place] >= TRIES or not lost:
                    outcomes[place] = _given_up(requests[place])
            say(f"a worker was lost (killed, or out of memory); {len(requests) - len(outcomes)} runs go on")
    return [outcomes[place] for place in range(len(requests))]


def _written(requests: Sequence[Request], stamps: dict[int, int | None]) -> dict[int, Outcome]:
    """Runs that came to an end before the loss: their records are new."""
    found = {}
    for place, stamp in stamps.items():
        request = requests[place]
        if _stamp(request) not in (None, stamp) and not _is_lost(request):
            status = records.read(request.folder)
            found[place] = Outcome(request.id, request.folder / records.NAME, status.status, status.error)
    return found


def _given_up(request: Request) -> Outcome:
    with lease(request.folder, wait=True):
        (request.folder / PROGRESS).unlink(missing_ok=True)
        told = f"its worker was killed {TRIES} times, as the system does where memory runs out"
        return failed(request, WorkerLost(told))


def _is_lost(request: Request) -> bool:
    """Whether somebody began it, and nobody has it now."""
    return (request.folder / PROGRESS).exists() and not is_held(request.folder)


def _stamp(request: Request) -> int | None:
    """When its record was written, nanoseconds; None where there is none."""
    path = request.folder / records.NAME
    return path.stat().st_mtime_ns if path.exists() else None
