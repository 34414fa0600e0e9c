"""Claims and what was found, as a table of the terminal and of a README."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from parediff.report.figure import signed
from parediff.report.table import ERRORS, plain
from parediff.results.axes import Axis
from parediff.results.claims import LEAST_SEEDS, Finding

HEADINGS = ("claim", "model", "verdict", "difference", "seeds", "command, parediff run -m …")
STYLES = {"helps": "green", "hurts": "red", "level": "", "open": "dim"}
LEGEND = f"helps, hurts: beyond two standard errors; level: not; open: fewer than {LEAST_SEEDS} seeds, or not one run."


def claims_table(findings: Sequence[Finding]) -> Any:
    """A row for each claim and model."""
    from rich.table import Table

    table = Table(title="claims", title_justify="left", caption_justify="left", caption=f"{LEGEND} {ERRORS}")
    for heading in HEADINGS:
        table.add_column(heading, justify="right" if heading == "seeds" else "left", overflow="fold")
    for finding in findings:
        said, model, verdict, *rest = map(plain, _cells(finding))
        style = STYLES.get(verdict, "")
        table.add_row(said, model, f"[{style}]{verdict}[/]" if style else verdict, *rest)
    return table


def claims_markdown(findings: Sequence[Finding]) -> str:
    """The same as a Markdown table."""
    rows = [HEADINGS, ("---",) * len(HEADINGS), *map(_cells, findings)]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows)


def _cells(finding: Finding) -> tuple[str, ...]:
    command = f"experiment={finding.claim.study}"
    if finding.missing:
        return finding.claim.says, finding.model, "open", finding.missing, "", command
    apart = ", ".join(
        [*(_apart(finding, axis) for axis in finding.differences), *(f"no {one}" for one in finding.absent)]
    )
    return finding.claim.says, finding.model, ", ".join(_verdicts(finding)), apart, str(finding.seeds), command


def _verdicts(finding: Finding) -> Iterator[str]:
    """One for all numbers where they agree."""
    found = {axis.name: finding.verdict(axis) for axis in finding.differences}
    if len(set(found.values())) == 1:
        yield next(iter(found.values()))
    else:
        yield from (f"{verdict} in {name}" for name, verdict in found.items())


def _apart(finding: Finding, axis: Axis) -> str:
    apart = finding.differences[axis]
    unit = axis.unit([apart.value])
    return f"{axis.name} {signed(apart.value, apart.stderr, unit)} {unit.symbol}".strip()
