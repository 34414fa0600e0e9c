"""`parediff list`: what there is, one line each, with the paper; or what a key means and accepts."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parediff.config.reference import Key

from parediff.commands.overrides import add_config_dir


def add(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser("list", help="what there is, one line each, with the paper; what a key accepts")
    told = "methods, models, metrics, …; or a key or its beginning: sampler.steps, methods.ptq, settings"
    parser.add_argument("kind", nargs="?", help=f"{told}; every kind where left out")
    add_config_dir(parser)
    return parser


def act(arguments: argparse.Namespace) -> int:
    from parediff.config.sources import searching

    with searching(arguments.config_dir):
        return list_command(arguments.kind)


def list_command(kind: str | None) -> int:
    """Print the options of one kind, or of all: name, description, paper; or the keys that are asked for."""
    from rich.console import Console
    from rich.table import Table

    from parediff.config.catalogue import catalogue

    kinds, console = catalogue(), Console()
    if kind is not None and kind not in kinds:
        console.print(_keys(kind, kinds))
        return 0
    for name in [kind] if kind else kinds:
        table = Table(title=name, title_justify="left", show_header=False, box=None, padding=(0, 2))
        for option, (description, paper) in kinds[name].items():
            table.add_row(f"[bold]{option}[/bold]", description, f"[dim]{paper}[/dim]")
        console.print(table)
    return 0


def _keys(asked: str, kinds: Any) -> Any:
    """A table of the keys at or below what is asked for, with every option that has them."""
    from rich.table import Table

    from parediff.config.reference import told
    from parediff.errors import RequestError, nearest
    from parediff.report.table import plain

    found, known = _found(asked)
    if not found:
        near = nearest(asked, [*kinds, *known])
        raise RequestError("list", asked, f"{', '.join(kinds)}, or a key, are accepted.{near}")
    table = Table("key", "of", "default", "accepted", "meaning", box=None, padding=(0, 2), header_style="dim")
    for option, key in found:
        table.add_row(*(plain(text) for text in (key.path, option, told(key.default), key.accepted, key.meaning)))
    return table


def _found(asked: str) -> tuple[list[tuple[str, Key]], list[str]]:
    """(option, key) for every key at or below what is asked for, and what else is known beside it."""
    from parediff.config.catalogue import options
    from parediff.config.reference import SEVERAL, keys_of, places

    settings = keys_of("settings")
    found = [("settings", key) for key in settings if asked == "settings" or _within(key.path, asked)]
    known = [key.path for key in settings]
    for place, group in places().items():
        first, _, rest = asked.partition(".")
        if found or first != place:
            continue
        named = [rest.partition(".")[0]] if group in SEVERAL else options(group)
        known += [f"{place}.{option}" for option in options(group)] if group in SEVERAL else []
        for option in [option for option in named if option in options(group)]:
            keys = keys_of(group, option)
            known += [key.path for key in keys]
            found += [(option, key) for key in keys if _within(key.path, asked)]
    return found, list(dict.fromkeys(known))


def _within(path: str, asked: str) -> bool:
    return path == asked or path.startswith(f"{asked}.")
