"""Whatever ends a run, what is on disk is whole, one line says why, nothing is left, and the rerun is the same."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import tiny
from composing import quick
from parediff import atomic
from parediff.bench import bench_command
from parediff.bench.victims import PLACES, Strike, configs_of, killed_writers, run
from parediff.cli import main
from parediff.config.compose import Composer
from parediff.config.request import Request, build
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.pipeline.attempt import Outcome
from parediff.pipeline.lost import through
from parediff.results import record as records
from parediff.results.progress import Study, in_words, report
from parediff.training.base import Learner

FORK = multiprocessing.get_context("fork")
KEPT = ("quality", "fidelity", "stderr", "cost", "baseline", "status")
LSQ = ["method=[lsq]", *quick("lsq")]
ENDED = ((signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted"))
"""A signal, the exit code and the word of the line that it leads to."""


def asked(shallow_model: Path) -> list[str]:
    fixed = [
        "model=pipeline",
        f"model.path={shallow_model}",
        "metric=[psnr,ssim]",
        "tracker=none",
        "cost=[macs,bops,nfe]",
    ]
    fixed += ["workload.count=4", "workload.batch_size=2", "workload.blocks=2", "sampler.steps=2", "reference.steps=3"]
    fixed += ["calibration.count=2", "data=digits", "data.batch_size=8", "trainer.max_steps=4"]
    return [
        *fixed,
        "trainer.checkpoint_every=2",
        "study=s",
        "trainer.progress=false",
        "trainer.accelerator=cpu",
        "front.y=psnr",
    ]


@pytest.fixture(scope="module")
def whole(shallow_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The numbers of the unbroken run."""
    runs = tmp_path_factory.mktemp("whole")
    assert run(configs_of([*asked(shallow_model), *LSQ, f"runs_dir={runs}"]), None) == 0
    return numbers(runs)


def numbers_of(runs: Path) -> dict[str, dict[str, Any]]:
    """By run, in the order of the ids."""
    found = sorted(records.find([runs]).records, key=lambda one: one.id)
    return {one.id: {key: getattr(one, key) for key in KEPT} for one in found}


def numbers(runs: Path) -> dict[str, Any]:
    (found,) = numbers_of(runs).values()
    return found


def is_tidy(runs: Path) -> bool:
    return not [*runs.rglob("*.tmp"), *runs.rglob("unfinished"), *runs.rglob("progress.json"), *runs.rglob("training")]


def test_sigkill_while_fitting_training_and_writing(shallow_model: Path, whole: dict[str, Any], tmp_path: Path) -> None:
    configs = configs_of([*asked(shallow_model), *LSQ, f"runs_dir={tmp_path}"])
    for place, after in (("calibration", 2), ("training", 3), ("record", 3)):
        assert run(configs, Strike(place, after)) == -signal.SIGKILL, place
        assert records.find([tmp_path]).warnings == []
    assert run(configs, None) == 0
    assert numbers(tmp_path) == whole
    assert is_tidy(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("after", range(1, 9))
@pytest.mark.parametrize("place", PLACES)
def test_sigkill_anywhere(shallow_model: Path, whole: dict[str, Any], tmp_path: Path, place: str, after: int) -> None:
    configs = configs_of([*asked(shallow_model), *LSQ, f"runs_dir={tmp_path}"])
    while after > 0 and run(configs, Strike(place, after)) == -signal.SIGKILL:
        after -= 1
    assert run(configs, None) == 0
    assert numbers(tmp_path) == whole
    assert is_tidy(tmp_path)


@pytest.fixture
def line(shallow_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.chdir(tmp_path)
    return lambda *overrides: main(["run", *asked(shallow_model), "runs_dir=runs", *overrides])


def test_a_signal_ends_a_run_in_one_line_and_the_rerun_is_the_same(
    line: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The first comes with the second batch of the run's images; the first batch is drawn again by every rerun."""
    plain = DiffusionModel.generate
    for (number, code, said), at in zip(ENDED, (4, 2), strict=True):
        drawn: list[Any] = []

        def generate(self: DiffusionModel, seeds: Any, *rest: Any) -> Any:
            drawn.append(seeds)  # noqa: B023
            if len(drawn) == at:  # noqa: B023
                os.kill(os.getpid(), number)  # noqa: B023
            return plain(self, seeds, *rest)

        with monkeypatch.context() as patched:
            patched.setattr(DiffusionModel, "generate", generate)
            assert line() == code
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert last == f"parediff: {said}; finished runs are kept, the same command resumes"
        assert records.find([tmp_path / "runs"]).records == []
        assert not [*tmp_path.rglob("*.tmp"), *tmp_path.rglob("progress.json")]
    assert line() == 0
    assert is_tidy(tmp_path)


def test_a_signal_in_training_is_the_same_line_and_the_rerun_has_the_same_numbers(
    line: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, whole: dict[str, Any]
) -> None:
    """The first comes with the third step of four, the second with the first step of the rerun."""
    plain = Learner.optimizer_step
    for (number, code, said), at in zip(ENDED, (3, 1), strict=True):
        steps: list[int] = []

        def step(self: Learner, *arguments: Any, **keywords: Any) -> Any:
            steps.append(1)  # noqa: B023
            if len(steps) == at:  # noqa: B023
                os.kill(os.getpid(), number)  # noqa: B023
            return plain(self, *arguments, **keywords)

        with monkeypatch.context() as patched:
            patched.setattr(Learner, "optimizer_step", step)
            assert line(*LSQ) == code
        told = capsys.readouterr().err.strip().splitlines()
        assert told[-1] == f"parediff: {said}; finished runs are kept, the same command resumes"
        assert not [entry for entry in told if "KeyboardInterrupt" in entry]
    assert line(*LSQ) == 0
    assert numbers(tmp_path / "runs") == whole
    assert is_tidy(tmp_path)


def before_writes(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], None]) -> list[Path]:
    """`act` comes before every write and is told its number, from 1; what was to be written is listed."""
    plain, written = atomic._replace, list[Path]()

    def write(path: Path, data: bytes) -> None:
        written.append(path)
        act(len(written))
        plain(path, data)

    monkeypatch.setattr(atomic, "_replace", write)
    return written


def failing(monkeypatch: pytest.MonkeyPatch, code: int, after: int) -> None:
    """From the write with that number on, every one fails."""

    def fail(number: int) -> None:
        if number >= after:
            raise OSError(code, os.strerror(code))

    before_writes(monkeypatch, fail)


def struck_at(monkeypatch: pytest.MonkeyPatch, number: int, at: int) -> list[Path]:
    """The signal comes before the write with that number."""
    return before_writes(monkeypatch, lambda count: os.kill(os.getpid(), number) if count == at else None)


@pytest.mark.parametrize("after", [2, pytest.param(7, marks=pytest.mark.slow)])
def test_what_cannot_be_written_is_said_in_one_line_and_loses_nothing(
    line: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, after: int
) -> None:
    for code, said in ((errno.EROFS, "Read-only file system"), (errno.ENOSPC, "the disk is full")):
        runs = tmp_path / str(code)  # what the first one wrote would spare the second its writes
        with monkeypatch.context() as patched:
            failing(patched, code, after)
            assert line(f"runs_dir={runs}") == 1
        told = [entry for entry in capsys.readouterr().err.splitlines() if entry.startswith("failed ")]
        assert len(told) == 1
        assert said in told[0]
        assert records.find([runs]).records == []
        assert not list(tmp_path.rglob("*.tmp"))
    assert line(f"runs_dir={runs}") == 0
    assert is_tidy(runs)


@pytest.mark.slow
def test_a_full_disk_at_every_write(line: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for after in range(2, 60):
        with monkeypatch.context() as patched:
            failing(patched, errno.ENOSPC, after)
            ended = line(*LSQ, f"study=s{after}")
        assert line(*LSQ, f"study=s{after}") == 0
        if ended == 0:
            break
    else:
        pytest.fail("no run wrote fewer than 60 files")
    found = records.find([tmp_path / "runs"]).records
    assert len({str([getattr(one, key) for key in KEPT]) for one in found}) == 1
    assert is_tidy(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_at_every_write(
    line: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, Any], number: int, code: int
) -> None:
    for after in range(1, 60):
        with monkeypatch.context() as patched:
            written = struck_at(patched, number, after)
            ended = line(*LSQ, f"runs_dir=runs{after}")
        assert ended == (code if len(written) >= after else 0)
        assert not list(tmp_path.rglob("*.tmp"))
        assert line(*LSQ, f"runs_dir=runs{after}") == 0
        assert numbers(tmp_path / f"runs{after}") == whole
        assert is_tidy(tmp_path / f"runs{after}")
        if ended == 0:
            break
    else:
        pytest.fail("no run wrote fewer than 60 files")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        pytest.param(MemoryError(), marks=pytest.mark.slow),
    ],
)
def test_too_little_memory_is_on_record_with_what_to_do_and_the_others_finish(
    line: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    points = "points=[['sampler.eta=0.0'],['sampler.eta=1.0']]"
    with monkeypatch.context() as patched:
        tiny.fail_where(patched, lambda sampler: sampler.eta == 1, error)
        assert line(points) == 1
    by_status = {found.status: found for found in records.find([tmp_path / "runs"]).records}
    assert set(by_status) == {"failed", "finished"}
    assert "smaller batches take less: workload.batch_size" in str(by_status["failed"].error)
    assert line(points, "resume=failed") == 0
    assert {found.status for found in records.find([tmp_path / "runs"]).records} == {"finished"}


def requests_of(shallow_model: Path, tmp_path: Path, *steps: int) -> list[Request]:
    composer = Composer("config")
    fixed = [*asked(shallow_model), f"runs_dir={tmp_path}"]
    return [build(composer.compose([*fixed, f"sampler.steps={count}"])) for count in steps]


def test_a_worker_that_is_killed_is_tried_again_and_takes_no_other_run_with_it(
    shallow_model: Path, tmp_path: Path
) -> None:
    requests, launches, told = requests_of(shallow_model, tmp_path, 1, 2, 3), list[list[int]](), list[str]()

    def launch(places: Sequence[int]) -> list[Outcome]:
        """The second run kills its worker every time; the first finishes before that."""
        launches.append(list(places))
        outcomes = []
        for place in places:
            request = requests[place]
            if place == 1:
                report(request.folder, "evaluate", 1, 8)
                raise BrokenProcessPool("a worker was killed")
            stated = records.Record(id=request.id, study="s", status="finished")
            outcomes.append(Outcome(request.id, records.write(stated, request.folder), "finished"))
        return outcomes

    outcomes = through(requests, launch, told.append)
    assert [outcome.status for outcome in outcomes] == ["finished", "failed", "finished"]
    assert launches == [[0, 1, 2], [1, 2], [2]]
    assert "killed 2 times" in str(records.read(requests[1].folder).error)
    assert len(told) == 2
    assert is_tidy(tmp_path)


@pytest.mark.slow
def test_a_joblib_worker_that_is_killed_costs_nothing(line: Any, tmp_path: Path, whole: dict[str, Any]) -> None:
    children, killed = Path(f"/proc/{os.getpid()}/task"), threading.Event()

    def kill() -> None:
        while not list((tmp_path / "runs").rglob("progress.json")):
            time.sleep(0.05)
        for child in " ".join(path.read_text() for path in children.glob("*/children")).split():
            if "loky" in Path(f"/proc/{child}/cmdline").read_text():
                os.kill(int(child), signal.SIGKILL)
                killed.set()
                return

    thread = threading.Thread(target=kill)
    thread.start()
    points = f"points=[{LSQ},['sampler.eta=0.5']]"
    assert line(points, "launcher=joblib") == 0
    thread.join()
    assert killed.is_set()
    found = next(one for one in records.find([tmp_path / "runs"]).records if one.methods == ["lsq"])
    assert {key: getattr(found, key) for key in KEPT} == whole
    assert is_tidy(tmp_path)


def test_two_identical_sweeps_at_once_draw_every_batch_once(
    line: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Baseline and calibration too; whoever comes second takes over what the first has on record."""
    plain = DiffusionModel.generate

    def generate(self: DiffusionModel, seeds: Any, *rest: Any) -> Any:
        with (Path.cwd() / "drawn").open("a") as file:
            file.write(f"{list(seeds)}\n")
        return plain(self, seeds, *rest)

    monkeypatch.setattr(DiffusionModel, "generate", generate)
    points = "points=[['sampler.steps=1'],['method=[ptq]','methods.ptq.search.candidates=8']]"
    drawn = {}
    for sweeps in (1, 2):
        processes = [FORK.Process(target=lambda: sys.exit(line(points, f"runs_dir=of{sweeps}"))) for _ in range(sweeps)]  # noqa: B023
        for process in processes:
            process.start()
        for process in processes:
            process.join(120)
            assert process.exitcode == 0
        drawn[sweeps] = Counter((tmp_path / "drawn").read_text().splitlines())
        (tmp_path / "drawn").unlink()
    assert drawn[1] == drawn[2]
    one, other = (numbers_of(tmp_path / f"of{sweeps}") for sweeps in drawn)
    assert one == other
    assert is_tidy(tmp_path)


def test_a_clock_that_is_set_back_gives_no_nonsense() -> None:
    study = Study(Path("s"), time.time() + 7200, {"a": "a", "b": "b"}, 0, 1, 0, (), 1)
    assert study.rate_s == 0
    assert "-" not in in_words(study)
    assert in_words(replace(study, started=time.time() - 10)).startswith("1 of 2 finished; 1")


def test_writers_that_are_killed_lose_no_record(tmp_path: Path) -> None:
    lost, kills = killed_writers(tmp_path, processes=4, each=20, seed=0)
    assert lost == 0
    assert kills > 0
    assert len(records.find([tmp_path]).records) == 80


@pytest.mark.slow
def test_the_benchmark_of_reliability_holds_its_limits() -> None:
    console = Console(record=True, width=120)
    counts = ["kills=10", "processes=4", "records=20", "images=0", "help_s=60"]
    assert bench_command("reliability", counts, console) == 0
    assert "records or files lost" in console.export_text()
