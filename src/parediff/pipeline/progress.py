"""How far a study is, in one terminal: whatever launches a run, it says in a small file of its folder how far it is."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from parediff.atomic import WriteError
from parediff.results import record as records
from parediff.results.progress import NAME, Running, in_words, report, running, studies, write_plan

ENDED = ("finished", "failed")
ROWS = 12  # runs that have a bar of their own at a time


class Reporter:
    """Says which stage a run is in and how far; losing a report costs nothing but a frame of a progress bar."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stage, self._done, self._total, self._last = "start", 0, 0, 0.0

    def stage(self, name: str, total: int = 0) -> None:
        self._stage, self._done, self._total = name, 0, total
        self._write()

    def advance(self, count: int) -> None:
        self._done += count
        if time.monotonic() - self._last > 0.2 or self._done >= self._total:
            self._write()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            (self._folder / NAME).unlink(missing_ok=True)

    def _write(self) -> None:
        self._last = time.monotonic()
        report(self._folder, self._stage, self._done, self._total)


@contextmanager
def watching(runs: Mapping[Path, str], console: Console) -> Iterator[None]:
    """A bar for the study and one for each run that is on its way, while the block lasts; `runs` is folder: its name.

    Plain lines where the output is no terminal. What the study sets out to do is written beside its runs, where
    `parediff status` and the page find it.
    """
    for study in {folder.parent for folder in runs}:
        try:
            write_plan(study, {folder.name: name for folder, name in runs.items() if folder.parent == study})
        except WriteError as error:  # the runs themselves will say so too, each on its own record
            console.print(str(error), soft_wrap=True, highlight=False, markup=False)
    with _display(runs, console) as show:
        stop = threading.Event()

        def poll() -> None:
            while not stop.wait(0.3):
                show()

        thread = threading.Thread(target=poll, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            show()


@contextmanager
def _display(runs: Mapping[Path, str], console: Console) -> Iterator[Callable[[], None]]:
    if not console.is_terminal:
        told: dict[Path, str] = {}
        yield lambda: _tell(runs, console, told)
        return
    name, state = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[state]}", markup=False)
    columns = (SpinnerColumn(), name, BarColumn(bar_width=24), state, TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bars = Bars(progress, runs)
        bars.show()
        yield bars.show


class Bars:
    """One bar for each study, one for each run while it is on its way."""

    def __init__(self, progress: Progress, runs: Mapping[Path, str]) -> None:
        self._progress = progress
        self._folders = sorted({folder.parent for folder in runs})
        self._studies: dict[Path, TaskID] = {}
        self._rows: dict[str, TaskID] = {}

    def show(self) -> None:
        """As it is on disk now."""
        found = {study.folder: study for study in studies(self._folders) if study.folder in self._folders}
        for folder, study in found.items():
            row = self._studies.get(folder)
            if row is None:
                row = self._studies[folder] = self._progress.add_task(folder.name, total=study.total, state="")
            state = in_words(study) if study.total > 1 else ""
            self._progress.update(row, completed=study.finished + study.failed, total=study.total, state=state)
        self._show_runs([run for study in found.values() for run in study.running if not run.is_stale][:ROWS])

    def _show_runs(self, on_their_way: list[Running]) -> None:
        for gone in self._rows.keys() - {run.id for run in on_their_way}:
            self._progress.remove_task(self._rows.pop(gone))
        for run in on_their_way:
            if run.id not in self._rows:
                self._rows[run.id] = self._progress.add_task(f"  {run.label}", total=1.0, state="")
            count = f" {run.done}/{run.total}" if run.total else ""
            self._progress.update(self._rows[run.id], completed=min(run.share, 0.999), state=f"{run.stage}{count}")


def _tell(runs: Mapping[Path, str], console: Console, told: dict[Path, str]) -> None:
    """A line whenever a run enters another stage: what a log file can hold."""
    for folder, name in runs.items():
        if told.get(folder) in ENDED:
            continue
        state = running(folder, name)
        stage = state.stage if state else _outcome(folder)
        if told.get(folder, "waiting") != stage:
            console.print(f"{name}: {stage}", soft_wrap=True, highlight=False, markup=False)
        told[folder] = stage


def _outcome(folder: Path) -> str:
    """finished or failed, as the run's record says; waiting where it has none yet."""
    try:
        return records.read(folder).status
    except records.RecordError:
        return "waiting"
