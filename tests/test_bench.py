"""The benchmark of feature reuse: what it measures, what it holds to, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

import tiny
from parediff.bench import bench_command, feature_reuse, names
from parediff.bench.feature_reuse import Row, Settings, main
from parediff.errors import RequestError


def test_every_benchmark_is_listed_with_what_it_measures() -> None:
    console = Console(record=True, width=200)
    assert bench_command(None, [], console) == 0
    told = console.export_text()
    assert names()
    assert all(name in told for name in names())
    assert "feature_reuse" in names()


def test_the_benchmark_measures_every_candidate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(feature_reuse.NETWORKS, "cifar", tiny.unconditional_model)
    console, output = Console(record=True, width=200), tmp_path / "rows.json"
    arguments = ["networks=[cifar]", "intervals=[2]", "steps=4", "repeats=2", f"output={output}"]
    assert bench_command("feature_reuse", arguments, console) in (0, 1)
    rows = json.loads(output.read_text())
    assert [row["candidate"] for row in rows] == ["frdiff M=2", "frdiff M=2, no mixing", "deepcache N=2"]
    assert all(row["mac_ratio"] > 1 and row["speed_up"] > 0 for row in rows)
    assert all(row["kept"] == pytest.approx(row["speed_up"] / row["mac_ratio"]) for row in rows)
    assert all(1 < row["time_ratio"] <= 2.001 for row in rows), "every second of 4 steps is skipped at most"
    assert all(row["kept_of_time"] == pytest.approx(row["speed_up"] / row["time_ratio"]) for row in rows)


@pytest.mark.parametrize(("speed_up", "code"), [(1.81, 0), (1.79, 1)])
def test_a_tenth_of_the_saving_may_be_lost(speed_up: float, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    row = Row("cifar", "frdiff", True, 2.0, speed_up, 1.0, 0.5, 0.0, 0.0)
    rival = Row("cifar", "rival", False, 2.0, 1.0, 1.0, 1.0, 0.0, 0.0)
    monkeypatch.setattr(feature_reuse, "measure", lambda *_: iter([row, rival]))
    assert main(["networks=[cifar]"], Console(quiet=True)) == code


@pytest.mark.parametrize(("time_ratio", "code"), [(1.6, 0), (1.7, 1), (None, 1)])
def test_less_is_enough_where_what_is_skipped_takes_less_of_the_time(
    time_ratio: float | None, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = Row("dit", "frdiff", True, 2.0, 1.55, 1.0, 0.65, 0.0, 0.0, time_ratio)
    monkeypatch.setattr(feature_reuse, "measure", lambda *_: iter([row]))
    assert main(["networks=[dit]"], Console(quiet=True)) == code


def test_what_cannot_be_measured_is_refused_by_name() -> None:
    with pytest.raises(RequestError, match=r"bench=feature_reus: .*Did you mean feature_reuse"):
        bench_command("feature_reus", [], Console(quiet=True))
    with pytest.raises(RequestError, match="networks=sdxl"):
        Settings(networks=("sdxl",))
    with pytest.raises(RequestError, match="repeat"):
        main(["repeat=3"], Console(quiet=True))
