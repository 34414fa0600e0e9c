"""`parediff sync`: offline tracker runs are uploaded."""

from __future__ import annotations

import argparse
from typing import Any


def add(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser("sync", help="upload offline tracker runs and say what was and was not uploaded")
    parser.add_argument("paths", nargs="+", metavar="PATH")
    return parser


def act(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from parediff.tracking import sync_command

    return sync_command(arguments.paths, Console())
