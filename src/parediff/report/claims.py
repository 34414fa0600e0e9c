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
    table = _titled(HEADINGS)
    for finding in findings:
        said, model, verdict, *rest = map(plain, _cells(finding))
        style = STYLES.get(verdict, "")
        table.add_row(said, model, f"[{style}]{verdict}[/]" if style else verdict, *rest)
    return table


def models_table(findings: Sequence[Finding]) -> Any:
    """A row for each claim, a column for each model."""
    headings, *rows = _by_model(findings)
    table = _titled(headings)
    for row in rows:
        table.add_row(*map(plain, row))
    return table


def _titled(headings: Sequence[str]) -> Any:
    """A table with these columns and the legend, still without rows."""
    from rich.table import Table

    table = Table(title="claims", title_justify="left", caption_justify="left", caption=f"{LEGEND} {ERRORS}")
    for heading in headings:
        table.add_column(plain(heading), justify="right" if heading == "seeds" else "left", overflow="fold")
    return table


def claims_markdown(findings: Sequence[Finding], *, by_model: bool = False) -> str:
    """The same as a Markdown table."""
    headings, *rows = _by_model(findings) if by_model else [HEADINGS, *map(_cells, findings)]
    lines = [headings, ("---",) * len(headings), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _by_model(findings: Sequence[Finding]) -> list[tuple[str, ...]]:
    """The headings, and a row for each claim: what every model says to it, with the number of its seeds."""
    models = list(dict.fromkeys(finding.model for finding in findings))
    found: dict[tuple[str, str], dict[str, str]] = {}
    for finding in findings:
        said, model, verdict, apart, seeds, command = _cells(finding)
        told = f"{verdict}: {apart}" + (f"; {seeds} seed{'s' * (seeds != '1')}" if seeds else "")
        found.setdefault((said, command), {})[model] = told
    rows = [(said, *(told.get(model, "") for model in models), command) for (said, command), told in found.items()]
    return [(HEADINGS[0], *models, HEADINGS[-1]), *rows]


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
