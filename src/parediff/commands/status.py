"""`parediff status`: a study while it runs, in the terminal."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def add(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser("status", help="a study in progress: what is finished, running, waiting, failed")
    parser.add_argument("paths", nargs="*", default=["runs"], metavar="PATH", help="a study, or a folder of studies")
    return parser


def act(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    return status_command(arguments.paths, Console())


def status_command(paths: Sequence[str | Path], console: Any) -> int:
    """A table of studies, then one of the runs that are on their way; 1 where a run failed."""
    from parediff.errors import RequestError
    from parediff.report.status import running_table, studies_table
    from parediff.results.progress import studies

    for path in paths:
        if not Path(path).exists():
            raise RequestError("PATH", path, "an existing folder")
    found = studies(paths)
    if not found:
        accepted = "the folder of a study that `parediff run` has started, or one that holds such folders"
        raise RequestError("PATH", ", ".join(map(str, paths)), accepted)
    console.print(studies_table(found))
    if any(study.running for study in found):
        console.print(running_table(found))
    return 1 if any(study.failed for study in found) else 0
