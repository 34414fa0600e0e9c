"""Benchmarks: what a claim about speed rests on, measured side by side in one process.

A module of this package is a benchmark: its first line says what it measures, `main(overrides, console)` measures it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from typing import Any

from parediff.errors import RequestError, nearest

SHARED = ("settings", "victims")


def names() -> list[str]:
    """Every benchmark there is."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in SHARED)


def bench_command(name: str | None, overrides: Sequence[str], console: Any) -> int:
    """Run one benchmark, or list them; 0 where its claims hold, 1 where they do not."""
    if name is None:
        for known in names():
            module = importlib.import_module(f"parediff.bench.{known}")
            console.print(f"[bold]{known}[/bold]  {(module.__doc__ or '').strip().splitlines()[0]}")
        return 0
    if name not in names():
        raise RequestError("bench", name, f"{', '.join(names())} are accepted.{nearest(name, names())}")
    return importlib.import_module(f"parediff.bench.{name}").main(list(overrides), console)
