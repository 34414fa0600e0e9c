"""Studies in progress as tables of the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from parediff.report.table import plain
from parediff.results.progress import Study, duration


def studies_table(studies: Sequence[Study]) -> Any:
    """A row for each study: how far it is, and how long the rest takes at the rate of this start."""
    from rich.table import Table

    table = Table(title="studies", title_justify="left")
    for name in ("study", "finished", "failed", "running", "waiting", "a run", "left"):
        table.add_column(name, justify="left" if name == "study" else "right", overflow="fold")
    for study in studies:
        table.add_row(
            plain(study.folder.name),
            f"{study.finished} of {study.total}",
            f"[red]{study.failed}[/red]" if study.failed else "0",
            str(len([run for run in study.running if not run.is_stale])),
            str(study.waiting),
            "" if study.rate_s is None else duration(study.rate_s),
            "" if not study.left_s else duration(study.left_s),
        )
    return table


def running_table(studies: Sequence[Study]) -> Any:
    """A row for each run that has reported and has no record yet."""
    from rich.table import Table

    table = Table(title="on their way", title_justify="left")
    for name in ("run", "study", "stage", "", "id"):
        table.add_column(name, style="dim" if name == "id" else "", overflow="fold")
    for study in studies:
        for run in study.running:
            count = f"{run.done}/{run.total}" if run.total else ""
            stage = plain(run.stage) + " [yellow](cut off; the same command goes on with it)[/yellow]" * run.is_stale
            table.add_row(plain(run.label), plain(study.folder.name), stage, count, plain(run.id))
    return table
