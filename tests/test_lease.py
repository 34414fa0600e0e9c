"""One holder a run, one run's work done once, whoever starts it how often; a lease ends with its holder."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from parediff.atomic import WriteError
from parediff.results import record as records
from parediff.results.lease import NAME, is_held, lease
from parediff.results.progress import PLAN, report, running, write_plan
from parediff.results.record import Record

FORK = multiprocessing.get_context("fork")


def held_by_another(folder: Path) -> None:
    with lease(folder, wait=False) as own:
        assert own
        (folder / "ready").touch()
        while not (folder / "stop").exists():
            time.sleep(0.02)


@pytest.fixture
def holder(tmp_path: Path) -> Any:
    """Another process that has the lease of tmp_path/run until it is told to stop, or killed."""
    process = FORK.Process(target=held_by_another, args=(tmp_path / "run",), daemon=True)
    process.start()
    while not (tmp_path / "run" / "ready").exists():
        time.sleep(0.02)
        assert process.is_alive()
    yield process
    process.kill()
    process.join()


def test_a_second_process_is_told_at_once_and_gets_the_lease_when_the_first_ends(holder: Any, tmp_path: Path) -> None:
    with lease(tmp_path / "run", wait=False) as own:
        assert not own
    assert is_held(tmp_path / "run") is True
    threading.Timer(0.3, (tmp_path / "run" / "stop").touch).start()
    with lease(tmp_path / "run", wait=True) as own:
        assert own
    holder.join()
    assert is_held(tmp_path / "run") is False


def test_a_lease_ends_with_a_holder_that_is_killed(holder: Any, tmp_path: Path) -> None:
    os.kill(holder.pid, signal.SIGKILL)
    with lease(tmp_path / "run", wait=True) as own:
        assert own
    assert (tmp_path / "run" / NAME).stat().st_size == 0


def test_nobody_holds_what_was_never_begun(tmp_path: Path) -> None:
    assert is_held(tmp_path) is None


def test_a_file_system_without_locks_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def none(*_: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", none)
    with (
        pytest.raises(WriteError, match=r"\.lease: not written: this file system has no locks"),
        lease(tmp_path, wait=False),
    ):
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="file"), lease(tmp_path / "file" / "run", wait=False):
        pass


def test_a_run_that_was_cut_off_is_known_by_its_free_lease_without_waiting(holder: Any, tmp_path: Path) -> None:
    report(tmp_path / "run", "evaluate", 1, 10)
    state = running(tmp_path / "run", "run")
    assert state is not None
    assert not state.is_stale
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    state = running(tmp_path / "run", "run")
    assert state is not None
    assert state.is_stale


def plan_of(folder: Path, name: str) -> None:
    write_plan(folder, {f"{name}{place}": name for place in range(20)})


def test_two_starts_at_once_forget_none_of_each_others_runs(tmp_path: Path) -> None:
    processes = [FORK.Process(target=plan_of, args=(tmp_path, name)) for name in "abcd"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(20)
    assert len(json.loads((tmp_path / PLAN).read_text())["runs"]) == 80


def work_on_all(folder: Path, names: list[str], log: Path) -> None:
    """What a sweep does with its runs: those of others are left for later."""
    waiting = list(names)
    for wait in (False, True):
        left = []
        for name in waiting:
            with lease(folder / name, wait=wait) as own:
                if not own:
                    left.append(name)
                elif not (folder / name / records.NAME).exists():
                    with log.open("a") as file:
                        file.write(f"{name}\n")
                    time.sleep(0.01)
                    records.write(Record(id=name, study="twins", status="finished"), folder / name)
        waiting = left


def test_many_sweeps_over_the_same_runs_do_each_once(tmp_path: Path) -> None:
    names, log = [f"run{place}" for place in range(24)], tmp_path / "log"
    processes = [FORK.Process(target=work_on_all, args=(tmp_path / "s", names, log)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert sorted(log.read_text().split()) == sorted(names)
    assert {found.id for found in records.find([tmp_path / "s"]).records} == set(names)
