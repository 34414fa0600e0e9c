"""`parediff bench`: ratios measured side by side in one process."""

from __future__ import annotations

import argparse
from typing import Any


def add(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser("bench", help="a benchmark: ratios measured side by side in one process")
    parser.add_argument("name", nargs="?", help="which; without a name the benchmarks are listed")
    parser.add_argument("overrides", nargs="*", help="key=value settings of the benchmark")
    return parser


def act(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from parediff.bench import bench_command

    return bench_command(arguments.name, arguments.overrides, Console())
