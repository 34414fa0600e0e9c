"""`parediff dashboard`: the page as a file, or served."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NAME = "dashboard.html"


def add(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser("dashboard", help="the page over all records below the paths")
    parser.add_argument("paths", nargs="+", metavar="PATH")
    parser.add_argument("--output", metavar="FILE", help="where to write the page (default: dashboard.html in PATH)")
    parser.add_argument("--serve", action="store_true", help="serve it on localhost, drawn anew at every reload")
    parser.add_argument("--port", type=int, default=8700)
    return parser


def act(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    return dashboard_command(arguments.paths, arguments.output, arguments.serve, arguments.port, Console())


def dashboard_command(paths: Sequence[str | Path], output: str | None, serve: bool, port: int, console: Any) -> int:
    """Write the page, or serve it until interrupted; the exit code. Served, a file is written only where asked for."""
    from parediff.atomic import write_atomically
    from parediff.report.dashboard.render import render

    content = render(paths)
    if output or not serve:
        path = write_atomically(_target(paths, output), content)
        console.print(str(path), soft_wrap=True, highlight=False, markup=False)
    if serve:
        _serve(paths, port, console)
    return 0


def _target(paths: Sequence[str | Path], output: str | None) -> Path:
    """Where asked; else below the first path, or beside it where it is a file."""
    first = Path(paths[0])
    return Path(output) if output else (first if first.is_dir() else first.parent) / NAME


def _serve(paths: Sequence[str | Path], port: int, console: Any) -> None:
    from parediff.errors import RequestError
    from parediff.report.dashboard.render import problem, render
    from parediff.report.dashboard.serve import server

    def draw() -> str:
        try:
            return render(paths)
        except RequestError as error:  # a folder that went away while the page was open
            return problem(error)

    with server(draw, port) as running:
        address, bound = running.server_address[:2]
        console.print(f"http://{address!s}:{bound}/ shows the records below {', '.join(map(str, paths))}; Ctrl-C ends.")
        try:
            running.serve_forever()
        except KeyboardInterrupt:
            console.print("ended")
