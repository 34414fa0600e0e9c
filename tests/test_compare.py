"""Runs side by side in the terminal: what differs, by how much, and with which error."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from parediff.commands.compare import compare_command
from parediff.errors import RequestError
from parediff.provenance import fingerprint
from parediff.results import record as records
from parediff.results.axes import Axis
from parediff.results.contrast import difference
from parediff.results.difference import Difference
from parediff.results.record import Record
from synthetic import DETAILS, record, scored

FD = Axis("quality", "fd_digits", "lower")


def seeded(name: str, values: list[float]) -> list[Record]:
    """One way of sampling with several seeds."""
    return [scored(record({name: {"weight_bits": 4}}, first_seed=seed), fd, 20.0) for seed, fd in enumerate(values)]


def test_equal_seeds_are_paired_and_their_error_is_that_of_the_differences() -> None:
    apart = difference(seeded("a", [10.0, 20.0, 30.0]), seeded("b", [11.0, 21.5, 30.5]), FD)
    assert apart is not None
    assert (apart.value, apart.pairs) == (pytest.approx(1.0), 3)
    assert apart.stderr == pytest.approx(math.sqrt((0**2 + 0.5**2 + 0.5**2) / 2 / 3))
    assert apart.verdict("lower") == "worse"
    assert apart.verdict("higher") == "better"


def test_single_runs_have_independent_errors_and_no_value_has_no_difference() -> None:
    (first,), (second,) = seeded("a", [10.0]), seeded("b", [12.0])
    apart = difference([first], [second], FD)
    assert apart == Difference(pytest.approx(2.0), pytest.approx(math.hypot(0.3, 0.36)), 0)
    assert difference([first], [replace(second, quality={})], FD) is None
    assert Difference(5.0, None, 0).verdict("lower") == "unclear"


def test_the_command_shows_settings_differences_and_another_protocol(tmp_path: Path) -> None:
    for name, values in (("a", [10.0, 20.0]), ("b", [11.0, 21.0])):
        for own in seeded(name, values):
            records.write(own, tmp_path / name / own.id)
    other = {**DETAILS, "count": 500}
    odd = replace(scored(record({"[c]": {}}), 5, 20.0), protocol=fingerprint(other), protocol_details=other)
    records.write(odd, tmp_path / "c")
    console = Console(file=io.StringIO(), width=160)
    assert compare_command([tmp_path / name for name in "abc"], console) == 0
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(words in told for words in ("config.methods.a.weight_bits", "(2 pairs)", "+1.0", "[c]", "2 seeds"))
    assert "[c] was measured under another protocol" in told
    assert "it differs in count" in told


def test_wrong_requests_are_told_apart(tmp_path: Path) -> None:
    for own in (*seeded("a", [1.0]), *seeded("b", [1.0])):
        records.write(own, tmp_path / own.id)
    (tmp_path / "empty").mkdir()
    console = Console(quiet=True)
    for paths, told in (
        ([tmp_path], "2 to 6 are accepted"),
        ([tmp_path, tmp_path], "2 ways of sampling"),
        ([tmp_path / "empty"] * 2, "a record below it"),
        ([tmp_path / "absent"] * 2, "existing folder"),
    ):
        with pytest.raises(RequestError, match=told):
            compare_command(paths, console)
