"""How far a run is: a small file in its folder, so that any launcher's runs can be watched from one terminal."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

NAME = "progress.json"


class Reporter:
    """Says which stage a run is in and how far; losing a report costs nothing but a frame of a progress bar."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
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
            self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        self._last = time.monotonic()
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._path.with_suffix(".tmp")
            temporary.write_text(json.dumps({"stage": self._stage, "done": self._done, "total": self._total}))
            temporary.replace(self._path)


@contextmanager
def watching(folders: Mapping[str, Path], console: Console) -> Iterator[None]:
    """One bar for each run (label: its folder) while the block lasts; plain lines where the output is no terminal."""
    with _display(folders, console) as show:
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
def _display(folders: Mapping[str, Path], console: Console) -> Iterator[Callable[[], None]]:
    if not console.is_terminal:
        told: dict[str, str] = {}
        yield lambda: _tell(folders, console, told)
        return
    bar, state = BarColumn(bar_width=24), TextColumn("{task.fields[state]}")
    columns = (SpinnerColumn(), TextColumn("{task.description}"), bar, state)
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        tasks = {label: progress.add_task(label, total=1.0, state="waiting", start=False) for label in folders}

        def show() -> None:
            for label, folder in folders.items():
                _show(progress, tasks[label], folder)

        yield show


def _tell(folders: Mapping[str, Path], console: Console, told: dict[str, str]) -> None:
    """A line whenever a run enters another stage: what a log file can hold."""
    for label, folder in folders.items():
        state = _read(folder / NAME)
        stage = state["stage"] if state else "finished" if (folder / "record.json").exists() else "waiting"
        if told.get(label, "waiting") != stage:
            console.print(f"{label}: {stage}", soft_wrap=True, highlight=False, markup=False)
        told[label] = stage


def _show(progress: Progress, task: object, folder: Path) -> None:
    state = _read(folder / NAME)
    known = progress.tasks[int(task)]  # type: ignore[call-overload]
    if state is None:
        finished = (folder / "record.json").exists()
        if finished and not known.finished:
            progress.update(known.id, completed=1.0, state="finished")
        return
    if not known.started:
        progress.start_task(known.id)
    share = state["done"] / state["total"] if state["total"] else 0.0
    count = f" {state['done']}/{state['total']}" if state["total"] else ""
    progress.update(known.id, completed=min(share, 0.999), state=f"{state['stage']}{count}")


def _read(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
