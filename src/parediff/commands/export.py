"""`parediff export`: the compressed network of a kept run as a deployed one would store it."""

from __future__ import annotations

import argparse
from typing import Any


def add(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser("export", help="write a kept run's network as bit-packed codes, steps and tables")
    parser.add_argument("run", metavar="RUN", help="runs/<study>/<id> of a run with save=true")
    parser.add_argument("output", metavar="FILE.safetensors")
    return parser


def act(arguments: argparse.Namespace) -> int:
    """How many bytes of what; the last line is the file's path."""
    from pathlib import Path

    from rich.console import Console

    from parediff.pipeline.export import export

    output = Path(arguments.output).expanduser()
    state = export(Path(arguments.run).expanduser(), output)
    console = Console()
    for weight, name in ((True, "weights"), (False, "all else")):
        parts = [stored for stored in state.values() if stored.weight == weight]
        console.print(f"{name}: {len(parts)} tensors, {sum(stored.bytes for stored in parts):,} bytes")
    console.print(str(output), soft_wrap=True, highlight=False, markup=False)
    return 0
