"""`parediff front`: the fronts over all records below some paths."""

from __future__ import annotations

import argparse
from typing import Any


def add(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser("front", help="the front over all records below the paths")
    parser.add_argument("paths", nargs="+", metavar="PATH")
    parser.add_argument("--x", metavar="KEY", help="cost to lay out: bops (default), macs, latency_s, …")
    parser.add_argument("--y", metavar="KEY", help="quality to lay out: fd_digits, psnr, …")
    told = "each point's difference to a run (its label or id), or to the baseline in its own record"
    parser.add_argument("--against", metavar="RUN|baseline", help=told)
    told = "hypervolume of each family of methods alone, and what composing them adds"
    parser.add_argument("--families", action="store_true", help=told)
    told = "with --families: volumes over the logarithm of the cost, where a halving counts alike at all costs"
    parser.add_argument("--log", action="store_true", help=told)
    told = "only points that were run under at least so many seeds"
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help=told)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--html", metavar="FILE")
    return parser


def act(arguments: argparse.Namespace) -> int:
    """Show the fronts in the terminal and write what was asked for."""
    from rich.console import Console

    from parediff.report.study import front_command

    files = arguments.json, arguments.html
    asked = {
        "compared": arguments.against,
        "families": arguments.families,
        "log": arguments.log,
        "seeds": arguments.seeds,
    }
    return front_command(arguments.paths, arguments.x, arguments.y, *files, Console(), **asked)
