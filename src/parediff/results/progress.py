"""How far a study is: what it set out to run, and the small file that each run keeps in its folder while it lasts."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parediff.atomic import tidy, write_atomically
from parediff.results import record as records
from parediff.results.lease import is_held, lease

NAME = "progress.json"
PLAN = "plan.json"
STATUS, HEAD = re.compile(r'"status":\s*"(finished|failed)"'), 4096  # characters
STALE_S = 600.0  # a report older than this comes from a run that no longer reports


@dataclass(frozen=True)
class Running:
    """A run without a finished record: what it is called, its stage, how far it is (0 of 0 where that is unknown)."""

    id: str
    label: str
    stage: str
    done: int
    total: int
    reported: float  # seconds since the epoch
    held: bool | None = None  # whether its lease is held; None where nobody ever took it

    @property
    def share(self) -> float:
        return min(self.done / self.total, 1.0) if self.total else 0.0

    @property
    def is_stale(self) -> bool:
        """Cut off: its lease is free; where it never had one, silent for long."""
        if self.held is not None:
            return not self.held
        return self.stage != "waiting" and time.time() - self.reported > STALE_S


@dataclass(frozen=True)
class Study:
    """A study's plan beside what there is of it."""

    folder: Path
    started: float  # seconds since the epoch, of the last start
    labels: Mapping[str, str]  # what every run is called, by id, in the order of the study
    before: int  # finished before the last start
    finished: int
    failed: int
    running: tuple[Running, ...]
    waiting: int

    @property
    def total(self) -> int:
        return len(self.labels)

    @property
    def rate_s(self) -> float | None:
        """Seconds a run, over those that finished since the last start; None before the first."""
        own = self.finished - self.before
        passed = max(0.0, time.time() - self.started)  # a clock may be set back
        return passed / own if own > 0 else None

    @property
    def left_s(self) -> float | None:
        """Seconds until the rest is done, at this rate."""
        rate = self.rate_s
        return None if rate is None else rate * (self.total - self.finished - self.failed)


def in_words(study: Study) -> str:
    """'5 of 8 finished, 1 failed, 2 before this start; 40 s a run, about 2 min left'."""
    parts = [f"{study.finished} of {study.total} finished"]
    parts += [f"{study.failed} failed"] * bool(study.failed) + [f"{study.before} before this start"] * bool(
        study.before
    )
    told = ", ".join(parts)
    if study.rate_s is None or study.left_s is None:
        return told
    return f"{told}; {duration(study.rate_s)} a run" + f", about {duration(study.left_s)} left" * bool(study.left_s)


def duration(seconds: float) -> str:
    """'40 s', '12 min', '3.2 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def write_plan(folder: Path, labels: Mapping[str, str]) -> None:
    """What a study sets out to run (id: label), written when it starts or starts again.

    Runs that an earlier start of the study planned stay in the plan.
    """
    with lease(folder, wait=True):  # two starts at once: neither forgets the other's runs
        tidy(folder)
        known = _json(folder / PLAN).get("runs", {})
        runs = {**(known if _is_labels(known) else {}), **labels}
        finished = sum(_state(folder / run) == "finished" for run in runs)
        plan = {"runs": runs, "started": time.time(), "finished_before": finished}
        write_atomically(folder / PLAN, json.dumps(plan, indent=1, ensure_ascii=False) + "\n")


def report(folder: Path, stage: str, done: int, total: int) -> None:
    """Where a run stands; losing a report costs nothing but a frame of a progress bar."""
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        temporary = (folder / NAME).with_suffix(".tmp")
        temporary.write_text(json.dumps({"stage": stage, "done": done, "total": total}))
        temporary.replace(folder / NAME)


def running(folder: Path, label: str) -> Running | None:
    """The run's last report; None where it has none."""
    path = folder / NAME
    told = _json(path)
    with contextlib.suppress(OSError):
        if isinstance(told.get("stage"), str):
            done, total = (value if isinstance(value := told.get(key), int) else 0 for key in ("done", "total"))
            return Running(folder.name, label, told["stage"], done, total, path.stat().st_mtime, is_held(folder))
    return None


def studies(paths: Iterable[str | Path]) -> list[Study]:
    """Every study with a plan at, or one folder below, the paths."""
    found: dict[Path, Study] = {}
    for path in map(Path, paths):
        for plan in sorted([*path.glob(PLAN), *path.glob(f"*/{PLAN}")]) if path.is_dir() else []:
            study = None if plan.is_symlink() else _study(plan)
            if study is not None:
                found[plan.resolve()] = study
    return list(found.values())


def _study(path: Path) -> Study | None:
    told = _json(path)
    started, before = told.get("started"), told.get("finished_before")
    if not _is_labels(told.get("runs")) or not isinstance(started, int | float) or not isinstance(before, int):
        return None
    labels: dict[str, str] = told["runs"]
    states = {run: _state(path.parent / run) for run in labels}
    unfinished = [run for run, state in states.items() if state is None]
    reports = [own for run in unfinished if (own := running(path.parent / run, labels[run])) is not None]
    return Study(
        folder=path.parent,
        started=float(started),
        labels=labels,
        before=before,
        finished=sum(state == "finished" for state in states.values()),
        failed=sum(state == "failed" for state in states.values()),
        running=tuple(reports),
        waiting=len(unfinished) - len(reports),
    )


def _state(folder: Path) -> str | None:
    """finished or failed, None without a record; a run that runs again after a failure has a report beside it.

    The status stands among a record's first keys, so that a study of thousands need not be parsed to be counted.
    """
    try:
        with (folder / records.NAME).open(encoding="utf-8", errors="replace") as file:
            found = STATUS.search(file.read(HEAD))
    except OSError:
        return None
    status = found[1] if found else None
    return None if status == "failed" and (folder / NAME).exists() else status


def _is_labels(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(text, str) and run and "/" not in run and run != ".." for run, text in value.items()
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
