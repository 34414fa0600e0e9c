"""`parediff dashboard`: the page as a file, as a folder, or served."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NAME = "dashboard"


def add(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser("dashboard", help="the page over all records below the paths")
    parser.add_argument("paths", nargs="+", metavar="PATH")
    told = (
        "a .html file (everything inside, up to 25 MB) or a folder (any number of runs); default: dashboard.html or, "
    )
    parser.add_argument("--output", metavar="FOLDER|FILE", help=told + "where that is too large, dashboard/ in PATH")
    parser.add_argument("--serve", action="store_true", help="serve it on localhost and follow the runs while they run")
    parser.add_argument("--port", type=int, default=8700)
    return parser


def act(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    return dashboard_command(arguments.paths, arguments.output, arguments.serve, arguments.port, Console())


def dashboard_command(paths: Sequence[str | Path], output: str | None, serve: bool, port: int, console: Any) -> int:
    """Write the page, or serve it until interrupted; the exit code. Served, it is written only where asked for."""
    if output or not serve:
        path = _written(paths, output)
        console.print(str(path), soft_wrap=True, highlight=False, markup=False)
    if serve:
        _serve(paths, port, console)
    return 0


def _written(paths: Sequence[str | Path], output: str | None) -> Path:
    """Where asked; else as one file below the first path (beside it where it is a file), or as a folder there."""
    from parediff.report.dashboard.write import write_either, write_folder, write_page

    if output:
        return write_page(paths, Path(output)) if output.endswith(".html") else write_folder(paths, Path(output))
    first = Path(paths[0])
    folder = first if first.is_dir() else first.parent
    return write_either(paths, folder / f"{NAME}.html")


def _serve(paths: Sequence[str | Path], port: int, console: Any) -> None:
    from parediff.report.dashboard.serve import Live, server

    live = Live(paths)
    live.first_look()
    with server(live.answer, port) as running:
        address, bound = running.server_address[:2]
        console.print(
            f"http://{address!s}:{bound}/ follows the records below {', '.join(map(str, paths))}; Ctrl-C ends."
        )
        try:
            running.serve_forever()
        except KeyboardInterrupt:
            console.print("ended")
