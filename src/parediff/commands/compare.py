"""`parediff compare`: runs side by side, in the terminal."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LEAST, MOST = 2, 6


def add(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser("compare", help="2 to 6 runs side by side: settings, costs, quality with errors")
    told = "the folder of a run, or a folder whose runs differ in seeds only"
    parser.add_argument("paths", nargs="+", metavar="PATH", help=told)
    return parser


def act(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    return compare_command(arguments.paths, Console())


def compare_command(paths: Sequence[str | Path], console: Any) -> int:
    """What differs in what was asked, then what it costs and is worth, each against the first."""
    from parediff.errors import RequestError
    from parediff.report.comparison import Side, numbers_table, protocol_remark, settings_table
    from parediff.report.table import say
    from parediff.results.points import labels, seedless
    from parediff.results.record import find

    if not LEAST <= len(paths) <= MOST:
        raise RequestError("PATH", f"{len(paths)} of them", f"{LEAST} to {MOST} are accepted")
    groups = []
    for path in paths:
        records, warnings = find([path])
        ways = {seedless(record) for record in records}
        if len(ways) > 1:
            told = f"{len(ways)} ways of sampling lie below it; one is accepted, with any number of seeds"
            raise RequestError("PATH", path, told)
        if not ways:
            raise RequestError("PATH", path, "; ".join(["a folder with a record below it is accepted", *warnings[:1]]))
        groups.append(records)
    names = labels([group[0] for group in groups])
    sides = [Side(name, group) for name, group in zip(names, groups, strict=True)]
    console.print(settings_table(sides))
    console.print(numbers_table(sides))
    for line in protocol_remark(sides):
        say(line, console)
    return 0
