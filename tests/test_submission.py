"""Runs on a cluster: handed over at once, taken off with what they have on disk, and going on where they were."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import submitted_task
import tiny
from parediff.cli import main
from parediff.config import submission
from parediff.config.compose import Composer
from parediff.config.submission import FILE, Job, cluster_of, submit
from parediff.errors import RequestError
from parediff.models.weights import load_plain
from parediff.results import record as records
from parediff.results.interruption import is_waiting, put_off, safe_point

TESTS = Path(__file__).parent
LOCAL = {"timeout_min": 5, "tasks_per_node": 1, "name": "count"}


def wait_for(happened: Callable[[], Any], seconds: float, what: str) -> Any:
    """What `happened` gives as soon as it is something; the limit is generous, for a busy machine."""
    end = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < end, f"{what} did not happen within {seconds} s"
        time.sleep(0.1)
    return found


def preempt_locally(job: str) -> None:
    """The signal that submitit's controller sends to its task before a time limit."""
    for child in Path(f"/proc/{job}/task/{job}/children").read_text().split():
        os.kill(int(child), signal.SIGUSR2)


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))


def test_a_signal_waits_for_the_next_safe_point() -> None:
    told: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: told.append(number))
    try:
        with put_off(signal.SIGUSR2):
            os.kill(os.getpid(), signal.SIGUSR2)
            assert (told, is_waiting()) == ([], True)
            safe_point()
            assert (told, is_waiting()) == ([signal.SIGUSR2], False)
        os.kill(os.getpid(), signal.SIGUSR2)
        assert len(told) == 2
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_job_that_is_taken_off_goes_on_where_it_was(tmp_path: Path, importable: None) -> None:
    from submitit import AutoExecutor

    executor = AutoExecutor(folder=tmp_path / "logs", cluster="local")
    executor.update_parameters(timeout_min=5)
    config = OmegaConf.create({"folder": str(tmp_path), "until": 60})
    job = executor.submit(Job(submitted_task.counts, config))
    wait_for((tmp_path / "count").exists, 120, "the start")
    preempt_locally(job.job_id)
    assert job.result() == 60
    assert (tmp_path / "starts").read_text() == "xx"
    assert 1 <= int((tmp_path / "told").read_text()) <= 60


def test_the_launcher_of_a_config_says_whether_runs_are_handed_over() -> None:
    composer = Composer("config")
    assert cluster_of(composer.compose(["launcher=slurm"], multirun=True)) == "slurm"
    assert cluster_of(composer.compose(["launcher=background"], multirun=True)) == "local"
    for launcher in ("local", "joblib"):
        assert not composer.hands_over([f"launcher={launcher}"])


def test_a_machine_without_slurm_is_told_so_before_anything_is_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(RequestError, match=r"launcher=slurm: a machine with SLURM's sbatch; launcher=joblib"):
        submit(OmegaConf.create({}), "slurm", tmp_path, {}, print)


def test_a_launcher_setting_that_submitit_does_not_know_is_named(tmp_path: Path) -> None:
    node = OmegaConf.create({"submitit_folder": str(tmp_path / "logs"), "nodes": 3, "timeout_min": 1})
    with pytest.raises(RequestError, match=r"hydra\.launcher=local: .*nodes=1"):
        submit(node, "local", tmp_path, {"a": OmegaConf.create({})}, print)


def test_runs_that_wait_in_the_queue_are_not_submitted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[Any] = []

    class Fake:
        def batch(self) -> Any:
            from contextlib import nullcontext

            return nullcontext()

        def submit(self, job: Job) -> Any:
            handed.append(job.config.name)
            return type("Handed", (), {"job_id": f"9_{len(handed)}"})

    (tmp_path / FILE).write_text(json.dumps({"a": "7_0", "b": "7_1"}))
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(submission, "in_queue", lambda: frozenset(["7_1"]))
    monkeypatch.setattr(submission, "_executor", lambda *_: Fake())
    jobs = {name: OmegaConf.create({"name": name}) for name in "abc"}
    new, queued = submit(OmegaConf.create({}), "slurm", tmp_path, jobs, print)
    assert handed == ["a", "c"]
    assert (new, queued) == ({"a": "9_1", "c": "9_2"}, {"b": "7_1"})
    assert json.loads((tmp_path / FILE).read_text()) == {**new, **queued}


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`parediff run` of two runs of a tiny model; the second trains long enough to be taken off."""
    monkeypatch.chdir(tmp_path)
    tiny.unconditional_model().pipeline.save_pretrained(tmp_path / "model")
    fixed = ["model=pipeline", f"model.path={tmp_path / 'model'}", "metric=[psnr,ssim]", "cost=[macs,bops,nfe]"]
    fixed += ["workload.count=8", "workload.batch_size=2", "workload.blocks=2", "sampler.steps=2", "reference.steps=3"]
    fixed += [
        "tracker=none",
        "calibration.count=2",
        "data=digits",
        "data.batch_size=8",
        "study=jobs",
        "front.y=psnr",
        "trainer=ddp",
    ]
    fixed += ["trainer.devices=1", "trainer.max_steps=300", "trainer.progress=false", "trainer.accelerator=cpu"]
    points = "points=[['sampler.steps=1'],['method=[lsq]']]"
    return lambda *overrides: main(["run", *fixed, points, *overrides])


def trained(runs: Path) -> records.Record:
    return next(found for found in records.find([runs]).records if found.methods == ["lsq"])


def training_now(runs: Path) -> str | None:
    """The run that trains now."""
    for path in runs.rglob("progress.json"):
        with contextlib.suppress(FileNotFoundError):
            if '"train' in path.read_text():
                return path.parent.name
    return None


def finished(runs: Path) -> bool:
    return [found.status for found in records.find([runs]).records] == ["finished"] * 2


def same_as_unbroken(study: Callable[..., int], runs: Path, *overrides: str) -> None:
    """The same study in this process gives the same numbers, bit for bit."""
    assert study("runs_dir=whole", *overrides) == 0
    one, other = trained(runs), trained(Path("whole"))
    assert (one.quality, one.fidelity, one.cost) == (other.quality, other.fidelity, other.cost)
    assert not list(runs.rglob("unfinished"))


@pytest.mark.slow
def test_a_study_by_submitits_local_executor_survives_a_preemption(
    study: Callable[..., int], tmp_path: Path, capsys: Any
) -> None:
    handed = ["launcher=background", "runs_dir=runs"]
    assert study(*handed) == 0
    assert "2 runs submitted" in capsys.readouterr().err
    runs = tmp_path / "runs"
    run = wait_for(lambda: training_now(runs), 900, "the training")
    ids = json.loads((runs / "jobs" / FILE).read_text())
    preempt_locally(ids[run])
    wait_for(
        lambda: (runs / "jobs" / run / "training" / "lsq" / "checkpoints" / "last.ckpt").exists(), 60, "a checkpoint"
    )
    wait_for(lambda: finished(runs), 1800, "the end")
    assert main(["front", str(runs), "--y", "psnr"]) == 0
    same_as_unbroken(study, runs)


@pytest.fixture
def slurm(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cluster of this machine alone; skips, with the reason, where none can be started."""
    home, script = tmp_path_factory.mktemp("slurm"), TESTS / "slurm" / "cluster.sh"
    started = subprocess.run([script, "start", home], capture_output=True, text=True, check=False)
    if started.returncode:
        pytest.skip(f"no SLURM can be started here: {started.stderr.strip()}")
    monkeypatch.setenv("SLURM_CONF", str(home / "slurm.conf"))
    try:
        yield
    finally:
        subprocess.run([script, "stop", home], check=False)


def is_told(job: str) -> None:
    """SLURM's warning, as before a time limit."""
    subprocess.run(["scancel", job, "--signal=USR2"], check=True)


def is_preempted(_: str) -> None:
    """Somebody's more urgent job wants the whole node."""
    subprocess.run(
        ["sbatch", "--partition=urgent", "--cpus-per-task=2", "--output=/dev/null", "--wrap=true"], check=True
    )


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "taken_off"), [(1, is_told), (1, is_preempted), (2, is_told), (2, is_preempted)])
def test_a_study_on_slurm_survives_a_preemption(
    slurm: None, study: Callable[..., int], tmp_path: Path, capsys: Any, devices: int, taken_off: Callable[[str], None]
) -> None:
    """Two processes train in one job too; they are not the same training as one, but the same one again."""
    asked, each = [f"trainer.devices={devices}"], f"hydra.launcher.cpus_per_task={devices}"
    handed = ["launcher=slurm", "hydra.launcher.timeout_min=30", each, "runs_dir=runs", *asked]
    assert study(*handed) == 0
    runs = tmp_path / "runs"
    run = wait_for(lambda: training_now(runs), 900, "the training")
    job = json.loads((runs / "jobs" / FILE).read_text())[run]
    assert study(*handed) == 0  # what waits or runs is not submitted again
    assert json.loads((runs / "jobs" / FILE).read_text())[run] == job
    taken_off(job)
    wait_for(lambda: "Requeued" in "".join(path.read_text() for path in runs.rglob("*_log.out")), 600, "the requeue")
    kept = load_plain(runs / "jobs" / run / "training" / "lsq" / "checkpoints" / "last.ckpt", "ckpt_path")
    assert 0 < kept["global_step"] < 300
    assert main(["status", str(runs)]) == 0
    assert "1 of 2" in capsys.readouterr().out
    wait_for(lambda: finished(runs), 1800, "the end")
    assert study(*handed) == 0  # nothing is left to submit: the same command gives the front
    assert "record.json" in capsys.readouterr().out
    same_as_unbroken(study, runs, *asked)


@pytest.fixture
def counting(slurm: None, importable: None, tmp_path: Path) -> Any:
    """A job that counts to 300 and has come to 20; it is done in half a minute."""
    from submitit import AutoExecutor

    executor = AutoExecutor(folder=tmp_path / "logs", cluster="slurm")
    executor.update_parameters(timeout_min=5, nodes=1, tasks_per_node=1)
    job = executor.submit(Job(submitted_task.counts, OmegaConf.create({"folder": str(tmp_path), "until": 300})))
    count = tmp_path / "count"
    wait_for(lambda: count.exists() and int(count.read_text() or 0) > 20, 300, "the start")
    return job


@pytest.mark.slow
def test_a_job_that_is_preempted_with_time_to_leave_queues_itself(counting: Any, tmp_path: Path) -> None:
    is_preempted(counting.job_id)
    wait_for(lambda: (tmp_path / "count").read_text() == "300", 600, "the end")
    assert (tmp_path / "starts").read_text() == "xx"
    assert int((tmp_path / "told").read_text()) < 300


@pytest.mark.slow
def test_a_job_that_is_cancelled_does_not_come_back(counting: Any, tmp_path: Path) -> None:
    subprocess.run(["scancel", counting.job_id], check=True)
    wait_for(lambda: counting.job_id not in submission.in_queue(), 120, "the end")
    assert (tmp_path / "starts").read_text() == "x"
    assert int((tmp_path / "count").read_text()) < 300


def kill(job: str) -> None:
    """As the kernel does where memory ends; scancel would ask the job to leave first."""
    array, _, task = job.partition("_")
    own = {f"SLURM_ARRAY_JOB_ID={array}", f"SLURM_ARRAY_TASK_ID={task}"}
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if own <= {*environment.read_bytes().decode(errors="replace").split("\0")}:
                os.kill(int(environment.parent.name), signal.SIGKILL)


@pytest.mark.slow
def test_a_job_on_slurm_that_is_killed_is_handed_over_again_and_goes_on(
    slurm: None, study: Callable[..., int], tmp_path: Path, capsys: Any
) -> None:
    handed = ["launcher=slurm", "hydra.launcher.timeout_min=30", "trainer.checkpoint_every=20", "runs_dir=runs"]
    assert study(*handed) == 0
    runs = tmp_path / "runs"
    run = wait_for(lambda: training_now(runs), 900, "the training")
    folder = runs / "jobs" / run
    wait_for((folder / "training" / "lsq" / "checkpoints" / "last.ckpt").exists, 600, "a checkpoint")
    job = json.loads((runs / "jobs" / FILE).read_text())[run]
    kill(job)
    wait_for(lambda: job not in submission.in_queue(), 600, "the end of the job")
    assert not (folder / "record.json").exists()
    assert main(["status", str(runs)]) == 0
    assert "cut off" in capsys.readouterr().out
    assert study(*handed) == 0
    wait_for(lambda: finished(runs), 1800, "the end")
    told = "".join(path.read_text() for path in runs.rglob("*_log.err"))
    assert "Restored all states from the checkpoint" in told
    same_as_unbroken(study, runs)
