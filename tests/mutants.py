"""How many small changes of the package the tests notice.

    python tests/mutants.py count=200 seed=0 areas=results,cost

mutmut and cosmic-ray run the suite, or a hand-picked part of it, once a mutant; ours takes 20 CPU minutes, so 200
mutants would take three days. Here a mutant meets only the fast tests that run the changed lines, the cheapest first,
in a fork of a process that has torch and the rest imported: seconds. What tests reach is measured once and kept under
`.mutants/`, as is what became of each mutant; so the script can be stopped, goes on where it was, and after an edit
repeats only what the edit may have changed.

`budget=60` are the CPU seconds of tests that one mutant may cost, `tests=test_front,test_record` are the test files to
use; the exit code is 1 where fewer than `least=0.95` of the mutants were noticed. Mutants that change nothing are in
`mutation/equivalent.py`, each with its reason.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import NamedTuple

from mutation.equivalent import EQUIVALENT
from mutation.noticing import Reached, Verdict, judge
from mutation.sites import Mutant, mutants
from mutation.tree import ROOT, Tree, digest
from mutation.warm import Warm

AREAS = ("results", "pipeline", "sampling", "cost", "metrics", "quantization", "reuse", "correction")
OWN = {"test_mutants", "test_planted_bugs"}
ELSEWHERE = {"test_packaging", "test_page_in_browser", "test_environment", "test_floors", "test_docs"}
"""Test files that see the package from outside: installed, in a browser, as text."""


class Entry(NamedTuple):
    """A mutant of a file, and the file as it is."""

    file: str
    mutant: Mutant
    source: str

    @property
    def name(self) -> str:
        return f"{self.file}::{self.mutant.name}"

    @property
    def diff(self) -> str:
        return self.mutant.diff(self.source)

    @property
    def why_equivalent(self) -> str | None:
        return EQUIVALENT.get((self.file, self.mutant.stretch.partition("#")[0], _change(self)))


def _change(entry: Entry) -> str:
    """The line that stands there now, or which one is gone."""
    new = " ".join(entry.mutant.text.split())
    lines = entry.source.splitlines()[entry.mutant.first - 1 : entry.mutant.last]
    return f"without {' '.join(' '.join(lines).split())}" if new == "pass" else new


def sample(tree: Tree, count: int, seed: int, areas: Sequence[str]) -> list[Entry]:
    """As many mutants of each area, in turns, drawn by the digest of their names: an edit elsewhere draws no others."""
    drawn: list[tuple[int, Entry]] = []
    for place, area in enumerate(areas):
        everything = list(_of_area(tree, area))
        everything.sort(key=lambda entry: hashlib.sha256(f"{seed} {entry.name}".encode()).digest())
        share = (count * (place + 1)) // len(areas) - (count * place) // len(areas)
        drawn += enumerate(everything[:share])
    drawn.sort(key=lambda numbered: numbered[0])
    chosen = [entry for _, entry in drawn]
    for entry in chosen:
        compile(entry.mutant.applied(entry.source), entry.name, "exec")
    return chosen


def _of_area(tree: Tree, area: str) -> Iterator[Entry]:
    for path in sorted((tree.package / area).rglob("*.py")):
        file = path.relative_to(tree.package).as_posix()
        source = tree.source(file)
        yield from (Entry(file, mutant, source) for mutant in mutants(source))


def files_of_tests(names: Sequence[str]) -> list[str]:
    """The test files of these names, else all that run the package."""
    found = [*(ROOT / "tests").glob("test_*.py"), *(ROOT / "src" / "parediff" / "testing").glob("test_*.py")]
    wanted = [path for path in sorted(found) if (path.stem in names if names else path.stem not in OWN | ELSEWHERE)]
    if missing := {*names} - {path.stem for path in wanted}:
        raise SystemExit(f"tests: no file is named {', '.join(sorted(missing))}")
    return [path.relative_to(ROOT).as_posix() for path in wanted]


class Ledger:
    """What became of mutants: one JSON line each, the last counts."""

    def __init__(self, tree: Tree) -> None:
        self.tree, self.path = tree, tree.scratch / "verdicts.jsonl"
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self.kept = {own["mutant"]: own for own in map(json.loads, lines)}

    def find(self, entry: Entry, chosen: set[str]) -> Verdict | None:
        """The verdict that still holds: same source, same tests; of a noticed one, the files that did it."""
        own = self.kept.get(entry.name)
        if own is None or own["source"] != _text_digest(entry.source):
            return None
        verdict = Verdict(**own["verdict"] | {"files": tuple(own["verdict"]["files"])})
        same = all(self._digest(file) == value for file, value in own["tests"].items())
        return verdict if same and (verdict.noticed or {*verdict.files} >= chosen) else None

    def write(self, entry: Entry, verdict: Verdict) -> None:
        own = {
            "mutant": entry.name,
            "source": _text_digest(entry.source),
            "tests": {file: self._digest(file) for file in verdict.files},
            "verdict": asdict(verdict),
            "diff": entry.diff,
        }
        self.kept[entry.name] = own
        with self.path.open("a") as file:
            file.write(json.dumps(own) + "\n")

    def _digest(self, file: str) -> str | None:
        path = self.tree.path / file
        return digest(path) if path.exists() else None


def _text_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def verdicts(tree: Tree, reached: Reached, entries: list[Entry], budget_s: float) -> dict[str, Verdict]:
    """The verdict on each mutant that may differ, old ones first where they still hold."""
    ledger = Ledger(tree)
    found = {}
    for entry in entries:
        if entry.why_equivalent is not None:
            continue
        tests = reached.reaching(entry.file, [entry.mutant.stretch])
        chosen = {test.file for test, _ in reached.within(tests, budget_s)}
        verdict = ledger.find(entry, chosen)
        if verdict is None:
            text = entry.mutant.applied(entry.source)
            verdict = judge(reached, entry.file, text, [entry.mutant.stretch], budget_s)
            ledger.write(entry, verdict)
            print(f"{verdict.outcome:>11} {verdict.cpu_s:5.1f} s  {entry.name}  {verdict.by}", flush=True)
        found[entry.name] = verdict
    return found


def report(entries: list[Entry], found: dict[str, Verdict]) -> float:
    """Print the survivors and the score of each area; the whole score."""
    rows: dict[str, list[bool]] = defaultdict(list)
    for entry in entries:
        if entry.name in found:
            verdict = found[entry.name]
            rows[entry.file.partition("/")[0]].append(verdict.noticed)
            if not verdict.noticed:
                ran = f"{verdict.tests} of {verdict.of} tests"
                print(f"\n{verdict.outcome}: {entry.name}, line {entry.mutant.first}, {ran}\n{entry.diff}", end="")
    equivalent = [entry for entry in entries if entry.why_equivalent is not None]
    for entry in equivalent:
        print(f"\nequivalent: {entry.name}, {entry.why_equivalent}\n{entry.diff}", end="")
    print()
    for area, noticed in rows.items():
        print(f"{area:>13} {sum(noticed):4} of {len(noticed):4}  {sum(noticed) / len(noticed):6.1%}")
    everything = [each for noticed in rows.values() for each in noticed]
    score = sum(everything) / len(everything)
    print(f"{'all':>13} {sum(everything):4} of {len(everything):4}  {score:6.1%}, {len(equivalent)} equivalent")
    return score


def main(arguments: Sequence[str]) -> int:
    """The exit code: 1 where too few are noticed."""
    options = {"count": "200", "seed": "0", "areas": ",".join(AREAS), "budget": "60", "tests": "", "least": "0.95"}
    for key, _, value in (argument.partition("=") for argument in arguments):
        if key not in options:
            raise SystemExit(f"{key}: one of {', '.join(options)}")
        options[key] = value
    with Tree() as tree, Warm(tree.scratch) as warm:
        entries = sample(tree, int(options["count"]), int(options["seed"]), options["areas"].split(","))
        reached = Reached(tree, warm, files_of_tests(options["tests"].split(",") if options["tests"] else ()))
        found = verdicts(tree, reached, entries, float(options["budget"]))
    return int(report(entries, found) < float(options["least"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
