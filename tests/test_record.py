from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from parediff import provenance
from parediff.atomic import WriteError
from parediff.errors import RequestError
from parediff.results.record import Record, RecordError, code, environment, find, fingerprint, read, run_id, write

FULL = Record(
    id="a1",
    study="demo",
    status="finished",
    protocol="f00",
    model="ddpm_digits",
    methods=["ptq"],
    sampler={"name": "ddim", "steps": 50, "eta": 0.0},
    workload={"first_seed": 0, "count": 1000, "conditions": None},
    quality={"fd_digits": 5.5},
    fidelity={"psnr": None},
    stderr={"fd_digits": 0.2},
    cost={"bops": 1e9, "latency_s": None},
    fired={"ptq": {"share": 1.0}},
    config={"seed": 0},
    seconds={"sample": 1.5},
    better={"fd_digits": "lower"},
)
SCHEMA_KEYS = ["schema", "id", "study", "status", "error", "protocol", "model", "methods", "sampler", "workload"]
SCHEMA_KEYS += [
    "quality",
    "fidelity",
    "stderr",
    "cost",
    "baseline",
    "fired",
    "calibration",
    "config",
    "code",
    "environment",
    "seconds",
]


def disk_full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = write(FULL, tmp_path / "demo" / "a1")
    assert path == tmp_path / "demo" / "a1" / "record.json"
    assert read(path) == FULL
    assert read(path.parent).folder == path.parent


def test_a_written_record_has_exactly_the_keys_of_the_schema(tmp_path: Path) -> None:
    content = json.loads(write(FULL, tmp_path).read_text())
    assert list(content) == [*SCHEMA_KEYS, "better", "units", "left_out", "families", "remarks", "protocol_details"]
    assert content["schema"] == 1


def test_what_is_not_a_number_is_written_as_null(tmp_path: Path) -> None:
    strange = replace(FULL, quality={"fd_digits": math.nan}, cost={"bops": math.inf, "steps": (1, -math.inf)})
    text = write(strange, tmp_path).read_text()
    content = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert content["quality"] == {"fd_digits": None}
    assert content["cost"] == {"bops": None, "steps": [1, None]}


def test_numbers_of_numpy_and_torch_are_written_plainly(tmp_path: Path) -> None:
    import numpy as np
    import torch

    odd = replace(FULL, quality={"a": np.float32(0.5), "b": torch.tensor(2.0)}, config={"path": tmp_path})
    content = json.loads(write(odd, tmp_path).read_text())
    assert content["quality"] == {"a": 0.5, "b": 2.0}
    assert content["config"] == {"path": str(tmp_path)}


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_is_one_line_and_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    write(FULL, tmp_path)
    monkeypatch.setattr(os, call, disk_full)
    with pytest.raises(WriteError, match="the disk is full") as caught:
        write(replace(FULL, status="failed"), tmp_path)
    monkeypatch.undo()
    assert "\n" not in str(caught.value)
    assert caught.value.disk_full
    assert read(tmp_path) == FULL
    assert os.listdir(tmp_path) == ["record.json"]


def test_a_file_where_the_folder_should_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("not a folder")
    with pytest.raises(WriteError, match="not written") as caught:
        write(FULL, tmp_path / "demo")
    assert not caught.value.disk_full


def test_a_written_file_can_be_read_by_whom_the_mask_allows(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        assert write(FULL, tmp_path).stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(mask)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ('{"schema": 1, "id": "a', "Unterminated string"),
        ("[]", "an object is expected, not list"),
        ("{}", "no 'schema'"),
        (json.dumps({**FULL.to_json(), "schema": 2}), "schema 2, this version reads 1"),
        (json.dumps({**FULL.to_json(), "status": "odd"}), "status 'odd'"),
        (json.dumps({**FULL.to_json(), "methods": "ptq"}), "'methods' is str, list is expected"),
        (json.dumps({**FULL.to_json(), "cost": None}), "'cost' is NoneType, dict is expected"),
        (json.dumps({**FULL.to_json(), "quality": {"fd": "low"}}), "'quality.fd' is not a number"),
        ("[" * 100_000, ""),
    ],
)
def test_a_corrupt_record_is_one_line_naming_the_file(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(RecordError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: not a readable record: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_a_corrupt_record(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecordError):
        read(tmp_path)


def test_records_are_found_below_folders_and_corrupt_ones_are_named(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write(replace(FULL, id=name), tmp_path / "study" / name)
    (tmp_path / "study" / "c").mkdir()
    (tmp_path / "study" / "c" / "record.json").write_text("{")
    records, warnings = find([tmp_path])
    assert [record.id for record in records] == ["a", "b"]
    assert len(warnings) == 1
    assert str(tmp_path / "study" / "c" / "record.json") in warnings[0]


def test_a_record_reached_by_two_paths_counts_once(tmp_path: Path) -> None:
    path = write(FULL, tmp_path / "study" / "a1")
    records, warnings = find([tmp_path, path, path.parent])
    assert len(records) == 1
    assert warnings == []


def test_a_copied_run_counts_once_and_is_named(tmp_path: Path) -> None:
    write(FULL, tmp_path / "a")
    write(FULL, tmp_path / "b")
    records, warnings = find([tmp_path])
    assert len(records) == 1
    assert "the same run as" in warnings[0]


def test_a_link_back_up_does_not_trap_the_search(tmp_path: Path) -> None:
    write(FULL, tmp_path / "a")
    for name in ("up", "also_up"):
        (tmp_path / "a" / name).symlink_to(tmp_path)
    assert len(find([tmp_path]).records) == 1


def test_a_path_that_is_missing_is_a_wrong_request(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="PATH="):
        find([tmp_path / "nowhere"])


def test_the_same_request_has_the_same_id_and_storage_does_not_matter() -> None:
    config = {
        "model": {"name": "m", "text_cache": "runs"},
        "seed": 0,
        "runs_dir": "runs",
        "resume": False,
        "tracker": {"mode": "offline"},
    }
    moved = {
        "resume": True,
        "runs_dir": "/elsewhere",
        "save": True,
        "seed": 0,
        "model": {"name": "m", "text_cache": "/elsewhere"},
    }
    assert run_id(config, (0, 100)) == run_id(moved, (0, 100))
    assert run_id(config, (0, 100)) != run_id(config, (100, 100))
    assert run_id(config, (0, 100)) != run_id({**config, "seed": 1}, (0, 100))


def test_a_fingerprint_does_not_depend_on_the_order_of_keys_or_on_tuples() -> None:
    assert fingerprint({"a": 1, "b": (1, 2)}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_the_code_names_its_commit_where_it_is_a_checkout() -> None:
    known = code()
    assert known["version"]
    assert known["commit"] is None or len(known["commit"]) == 40


def test_code_outside_any_repository_has_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    assert code() == {"version": provenance.__version__, "commit": None, "dirty": None}
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)  # a wheel below somebody else's repository
    assert code()["commit"] is None
    monkeypatch.setenv("PATH", "")
    assert code()["commit"] is None


def test_the_environment_names_versions_and_neither_host_nor_user() -> None:
    import platform

    described = environment()
    assert described["packages"]["numpy"]
    assert platform.node() not in json.dumps(described)


def test_reading_records_needs_no_torch() -> None:
    program = "import sys, parediff.results.record, parediff.results.front; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
