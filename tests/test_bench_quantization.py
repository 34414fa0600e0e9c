"""The benchmark of quantisation: what it measures and what it holds to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

import tiny
from parediff.bench import bench_command, quantization
from parediff.bench.quantization import Row, Settings, main
from parediff.cost import Latency
from parediff.errors import RequestError


@pytest.mark.slow
def test_forwards_and_calibrations_are_measured_in_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(quantization.NETWORKS, "cifar", tiny.unconditional_model)
    console, output = Console(record=True, width=200), tmp_path / "rows.json"
    monkeypatch.setattr(quantization, "CALIBRATION_STEPS", 2)
    asked = ["repeats=2", "calibration_images=2", f"output={output}"]
    assert bench_command("quantization", asked, console) in (0, 1)
    rows = json.loads(output.read_text())
    assert [row["held"] for row in rows] == [True, False, False, False]
    assert all(row["latency"]["ratio"] > 0 for row in rows)
    told = console.export_text()
    assert all(pair in told for pair in ("tdq (tables) / static", "calibrating ptq", "calibrating tdq"))


@pytest.mark.parametrize(("ratio", "code"), [(1.019, 0), (1.021, 1)])
def test_a_table_may_cost_two_percent(ratio: float, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def row(value: float, *, held: bool) -> Row:
        return Row("pair", 1.02, held, Latency(1.0, value, 0.0, 0.0, value, 0.0, 0.0))

    monkeypatch.setattr(quantization, "measure", lambda _: iter([row(ratio, held=True), row(9.0, held=False)]))
    assert main([], Console(quiet=True)) == code


def test_what_cannot_be_measured_is_refused_by_name() -> None:
    with pytest.raises(RequestError, match="network=sdxl"):
        Settings(network="sdxl")
    with pytest.raises(RequestError, match="repeats"):
        Settings(repeats=1)
