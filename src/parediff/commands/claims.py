"""`parediff claims`: what studies claim, judged on every model whose runs lie below some paths."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def add(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser("claims", help="what studies claim, judged model by model on the runs below the paths")
    parser.add_argument("paths", nargs="+", metavar="PATH")
    told = "claims of one's own (may be given several times); else those of the studies that ship"
    parser.add_argument("--file", metavar="FILE", action="append", help=told)
    parser.add_argument("--by-model", action="store_true", help="a row for each claim, a column for each model")
    parser.add_argument("--markdown", metavar="FILE", help="the table as Markdown")
    return parser


def act(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    given = arguments.paths, arguments.file, arguments.markdown
    return claims_command(*given, Console(), by_model=arguments.by_model)


def claims_command(
    paths: Sequence[str | Path],
    files: Sequence[str] | None,
    markdown: str | None,
    console: Any,
    *,
    by_model: bool = False,
) -> int:
    """A table of claims and models; how many claims have no runs there, by study."""
    from parediff.atomic import write_atomically
    from parediff.errors import RequestError
    from parediff.report.claims import claims_markdown, claims_table, models_table
    from parediff.report.table import say
    from parediff.resources import shipped
    from parediff.results.claims import NAME, judge, read
    from parediff.results.record import find

    chosen = map(Path, files) if files else sorted(shipped("experiments").glob(f"*/{NAME}"))
    claims = [claim for file in chosen for claim in read(file)]
    records, warnings = find(paths)
    if not records:
        raise RequestError("PATH", ", ".join(map(str, paths)), "a folder with records below it")
    judged = [(claim, judge(claim, records)) for claim in claims]
    findings = [finding for _, found in judged for finding in found]
    console.print(models_table(findings) if by_model else claims_table(findings))
    unmeasured = Counter(claim.study for claim, found in judged if not found)
    if unmeasured:
        told = ", ".join(f"{study} ({count})" for study, count in unmeasured.items())
        console.print(f"Claims without runs of both sides here: {told}", markup=False, highlight=False, soft_wrap=True)
    for line in warnings:
        say(line, console)
    if markdown:
        write_atomically(Path(markdown), claims_markdown(findings, by_model=by_model))
    return 0
