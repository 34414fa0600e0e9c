"""Whether the tests notice a change: only those that reach the changed stretch are run, the cheapest first."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mutation.stretches import MODULE, stretches
from mutation.tree import Tree, digest
from mutation.warm import Answer, Request, Warm

FIRST_S = 4.0
"""What the first call of pytest may take for a mutant, in CPU seconds; most are noticed there."""


class Test(NamedTuple):
    """A fast test that passes: CPU seconds of its own, and the shared fixtures that it needs."""

    name: str
    cpu_s: float
    fixtures: tuple[str, ...]

    @property
    def file(self) -> str:
        return self.name.partition("::")[0]


class Reached:
    """What test files reach, kept by file and made again when the file changes."""

    def __init__(self, tree: Tree, warm: Warm, files: Sequence[str]) -> None:
        self.tree, self.warm = tree, warm
        self.hold({file: self._of(file) for file in files})

    def hold(self, content: dict[str, dict[str, Any]]) -> None:
        """Know these test files."""
        self.content = content
        self.tests = {name: [*_tests(name, own)] for name, own in self.content.items()}
        self.fixture_s = {
            f"{name}:{key}": value["cpu_s"]
            for name, own in self.content.items()
            for key, value in own["fixtures"].items()
        }

    def _of(self, file: str) -> dict[str, Any]:
        kept = self.tree.scratch / "reached" / f"{Path(file).stem}.json"
        now = digest(self.tree.path / file)
        if kept.exists() and (content := json.loads(kept.read_text()))["digest"] == now:
            return content
        answer = self.warm(Request(str(self.tree.path), [file], 1800, 7200, record=True))
        if answer.content is None:
            raise RuntimeError(f"{file}: {answer.outcome}, see {self.tree.scratch / 'last.log'}")
        content = {"digest": now, "cpu_s": answer.cpu_s, **answer.content}
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(json.dumps(content))
        failed = [name for name, why in content["bad"].items() if why != "skipped"]
        print(f"{file}: {len(content['tests'])} tests, {answer.cpu_s:.0f} s", *failed, flush=True)
        return content

    def reaching(self, file: str, names: Iterable[str]) -> list[Test]:
        """Tests that run one of the stretches; for code outside functions those that run any of the file's."""
        wanted = {f"{file}::{name}" for name in names}
        anywhere = f"{file}::{MODULE}" in wanted
        found = []
        for own in self.content:
            for test, reached in self.tests[own]:
                if wanted & reached or (anywhere and any(name.startswith(f"{file}::") for name in reached)):
                    found.append(test)
        if anywhere and not found:
            found = [
                test
                for own, kept in self.content.items()
                if wanted & {*kept["collected"]}
                for test, _ in self.tests[own]
            ]
        return found

    def within(self, tests: list[Test], budget_s: float) -> Iterator[tuple[Test, float]]:
        """The cheapest tests, by file where they cost about the same, and the seconds up to each; the last exceeds."""
        paid: set[str] = set()
        total = 0.0
        for test in sorted(tests, key=self._order):
            total += test.cpu_s + sum(self.fixture_s[name] for name in {*test.fixtures} - paid)
            paid |= {*test.fixtures}
            yield test, total
            if total > budget_s:
                return

    def _order(self, test: Test) -> tuple[int, str]:
        cpu_s = test.cpu_s + sum(self.fixture_s[name] for name in test.fixtures)
        return round(math.log2(max(cpu_s, 0.1))), test.file


def _tests(file: str, content: dict[str, Any]) -> Iterator[tuple[Test, set[str]]]:
    for name, own in content["tests"].items():
        fixtures = [content["fixtures"][key]["reached"] for key in own["fixtures"]]
        reached = {*own["reached"], *content["collected"]}.union(*fixtures)
        yield Test(name, own["cpu_s"], tuple(f"{file}:{key}" for key in own["fixtures"])), reached


@dataclass(frozen=True)
class Verdict:
    """`outcome` is noticed, timed out, survived, not reached or error; `tests` of `of` tests were enough or allowed."""

    outcome: str
    by: str
    cpu_s: float
    tests: int
    of: int
    files: tuple[str, ...]

    @property
    def noticed(self) -> bool:
        return self.outcome in ("noticed", "timed out")


def judge(reached: Reached, file: str, text: str, names: Iterable[str], budget_s: float) -> Verdict:
    """Run the tests of the changed stretches over the changed file, until one fails."""
    tests = reached.reaching(file, names)
    timed = [*reached.within(tests, budget_s)]
    first = [test for test, total in timed if total <= FIRST_S] or [test for test, _ in timed[:1]]
    rest = [test for test, _ in timed[len(first) :]]
    spent = 0.0
    with reached.tree.changed(file, text):
        for part in (first, rest):
            if part:
                answer = _run(reached, part, timed[-1][1])
                spent += answer.cpu_s
                if answer.outcome != "passed":
                    return Verdict(_word(answer), answer.by, spent, len(timed), len(tests), _files(part))
    return Verdict("survived" if timed else "not reached", "", spent, len(timed), len(tests), _files(first + rest))


def _run(reached: Reached, tests: list[Test], expected_s: float) -> Answer:
    names = ["-x", *(test.name for test in tests)]
    return reached.warm(Request(str(reached.tree.path), names, 60 + 4 * expected_s, 300 + 30 * expected_s))


def _word(answer: Answer) -> str:
    return "noticed" if answer.outcome == "failed" else answer.outcome


def _files(tests: list[Test]) -> tuple[str, ...]:
    return tuple(sorted({test.file for test in tests}))


def at_lines(source: str, first: int, last: int) -> set[str]:
    """The stretches that lie on lines of a file; code outside functions too."""
    of: dict[int, str] = {}
    for stretch in stretches(ast.parse(source)):
        for entry in stretch.block[stretch.start : stretch.stop]:
            for line in range(entry.lineno, (entry.end_lineno or entry.lineno) + 1):
                of[line] = stretch.name  # an inner one comes after the one around it
    return {of.get(line, MODULE) for line in range(first, last + 1)}
