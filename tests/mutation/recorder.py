"""A pytest plugin: which stretches of the package a test reaches, itself, by shared fixtures or at the import."""

from __future__ import annotations

import os
from typing import Any

import pytest

from mutation.reach import Marks


class Recorder:
    """The plugin: for each test that passes its stretches, its CPU seconds, and the shared fixtures that it needs."""

    def __init__(self, marks: Marks) -> None:
        self.marks = marks
        self.collected: list[str] = []
        self.fixtures: dict[str, dict[str, Any]] = {}
        self.keys: dict[int, str] = {}
        self.tests: dict[str, dict[str, Any]] = {}
        self.bad: dict[str, str] = {}
        self.shared_s = [0.0]

    def pytest_collection_finish(self) -> None:
        self.collected = sorted(self.marks.current)
        self.marks.current = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Any:
        if fixturedef.scope == "function":
            return (yield)
        around, start = self.marks.current, _cpu_s()
        self.marks.current = set()
        self.shared_s.append(0.0)
        try:
            return (yield)
        finally:
            took = _cpu_s() - start
            key = self.keys[id(fixturedef)] = f"{fixturedef.argname}:{len(self.fixtures)}"
            self.fixtures[key] = {"cpu_s": took - self.shared_s.pop(), "reached": sorted(self.marks.current)}
            self.shared_s[-1] += took
            self.marks.current = around

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Any:
        self.marks.current, self.shared_s[-1], start = set(), 0.0, _cpu_s()
        try:
            return (yield)
        finally:
            own = self.tests.setdefault(item.nodeid, {"fixtures": []})
            own |= {"cpu_s": _cpu_s() - start - self.shared_s[-1], "reached": sorted(self.marks.current)}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: Any) -> Any:
        used = {self.keys.get(id(found)) for found in item._request._fixture_defs.values()}
        self.tests[item.nodeid] = {"fixtures": sorted(filter(None, used))}
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.passed:
            self.bad[report.nodeid] = str(report.longrepr)[-2000:] if report.failed else "skipped"

    def content(self) -> dict[str, Any]:
        """What is kept of a test file."""
        for test, stretch in self.marks.of_others():
            if test in self.tests:
                self.tests[test]["reached"] = sorted({*self.tests[test]["reached"], stretch})
        passed = {name: own for name, own in self.tests.items() if name not in self.bad}
        return {"collected": self.collected, "fixtures": self.fixtures, "tests": passed, "bad": self.bad}


def _cpu_s() -> float:
    """CPU seconds of this process and of those that it waited for."""
    return sum(os.times()[:4])
