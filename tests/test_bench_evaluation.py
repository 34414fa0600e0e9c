"""The benchmark of what judging costs beside the model: every second is somewhere, and the limit is kept to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from parediff.bench import bench_command
from parediff.errors import RequestError


def test_the_share_outside_networks_and_extractors_is_measured_and_held_to_its_limit(tmp_path: Path) -> None:
    console, output = Console(record=True, width=200), tmp_path / "rows.json"
    assert bench_command("evaluation", ["count=8", "steps=2", "limit=0", f"output={output}"], console) == 1
    (row,) = json.loads(output.read_text())
    assert 0 < row["share"] < 1
    assert row["networks_s"] > 0
    assert row["extractors_s"] > 0
    assert row["networks_s"] + row["extractors_s"] < row["seconds"]
    assert f"{row['share']:.1%} outside (limit 0%)" in console.export_text()


@pytest.mark.parametrize("setting", ["count=7", "steps=0", "counts=9"])
def test_settings_out_of_range_are_refused(setting: str) -> None:
    with pytest.raises(RequestError):
        bench_command("evaluation", [setting], Console(quiet=True))
