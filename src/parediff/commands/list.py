"""`parediff list`: what there is, one line each, with the paper."""

from __future__ import annotations

import argparse
from typing import Any

from parediff.commands.overrides import add_config_dir


def add(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser("list", help="what there is, one line each, with the paper")
    parser.add_argument("kind", nargs="?", help="methods, models, metrics, costs, samplers, …; all where left out")
    add_config_dir(parser)
    return parser


def act(arguments: argparse.Namespace) -> int:
    from parediff.config.sources import searching

    with searching(arguments.config_dir):
        return list_command(arguments.kind)


def list_command(kind: str | None) -> int:
    """Print the options of one kind, or of all: name, description, paper."""
    from rich.console import Console
    from rich.table import Table

    from parediff.config.catalogue import catalogue
    from parediff.errors import RequestError, nearest

    kinds, console = catalogue(), Console()
    if kind is not None and kind not in kinds:
        raise RequestError("list", kind, f"{', '.join(kinds)} are accepted.{nearest(kind, kinds)}")
    for name in [kind] if kind else kinds:
        table = Table(title=name, title_justify="left", show_header=False, box=None, padding=(0, 2))
        for option, (description, paper) in kinds[name].items():
            table.add_row(f"[bold]{option}[/bold]", description, f"[dim]{paper}[/dim]")
        console.print(table)
    return 0
