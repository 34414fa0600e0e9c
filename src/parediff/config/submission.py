"""Runs handed to SLURM by submitit: each is one job of an array, and a job that is taken off goes on where it was."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from omegaconf import DictConfig, OmegaConf

from parediff.atomic import write_atomically
from parediff.errors import RequestError
from parediff.results.interruption import handled, put_off

FILE = "submitted.json"
"""Beside a study's runs: run id -> job id, as far as jobs were submitted."""
CLUSTERS = {"SlurmLauncher": "slurm", "LocalLauncher": "local"}
UNPREFIXED = ("timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name")
NOT_PARAMETERS = ("_target_", "submitit_folder", "max_num_timeout")


@dataclass(frozen=True)
class Job:
    """One run. Signals, before a time limit or at a preemption, wait until what is done is on disk; then the job goes
    back into the queue as it is, and finds its folder again."""

    task: Callable[[DictConfig], Any]
    config: DictConfig

    def __call__(self) -> Any:
        with _leaving(), put_off(signal.SIGUSR2, signal.SIGTERM):
            return self.task(self.config)

    def checkpoint(self) -> Any:
        """What submitit puts back into the queue: the same request."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@contextmanager
def _leaving() -> Iterator[None]:
    """While the block lasts, SIGTERM ends the job; one that is preempted with time to leave goes into the queue first.

    SLURM takes a job that ends within its partition's GraceTime for complete. submitit queues again on SIGUSR2 only.
    """
    again = signal.getsignal(signal.SIGUSR2)

    def leave(number: int, frame: FrameType | None) -> None:
        if _is_running() and callable(again):
            again(number, frame)
        raise SystemExit(128 + number)

    with handled(leave, signal.SIGTERM):
        yield


def _is_running() -> bool:
    """Whether SLURM still counts this process's job as running: it was neither cancelled nor queued again."""
    from submitit import JobEnvironment

    here = JobEnvironment()
    return here.cluster == "slurm" and "RUNNING" in _squeue(f"--jobs={here.job_id}", "--format=%T")


def cluster_of(config: DictConfig) -> str | None:
    """'slurm' or 'local' where the chosen launcher is one of submitit's; None for the others."""
    target = str(OmegaConf.select(config, "hydra.launcher._target_", default=""))
    return CLUSTERS.get(target.rpartition(".")[2]) if "submitit" in target else None


def submit(
    node: DictConfig, cluster: str, folder: Path, jobs: Mapping[str, DictConfig], task: Callable[[DictConfig], Any]
) -> tuple[dict[str, str], dict[str, str]]:
    """(new, queued) job ids by run: an array of those runs that no earlier job still stands for. Returns at once."""
    if cluster == "slurm" and shutil.which("sbatch") is None:
        raise RequestError("launcher", "slurm", "a machine with SLURM's sbatch; launcher=joblib runs on this one")
    known = submitted(folder)
    queued = in_queue() if cluster == "slurm" else frozenset()
    waiting = {run: known[run] for run in jobs if known.get(run) in queued}
    missing = {run: config for run, config in jobs.items() if run not in waiting}
    handed: dict[str, str] = {}
    if missing:
        given = _executor(node, cluster)
        with given.batch():
            submissions = [given.submit(Job(task, config)) for config in missing.values()]
        handed = {run: str(job.job_id) for run, job in zip(missing, submissions, strict=True)}
        write_atomically(folder / FILE, json.dumps(known | handed, indent=1) + "\n")
    return handed, waiting


def submitted(folder: Path) -> dict[str, str]:
    """Job ids by run, as far as they are known."""
    try:
        return {str(run): str(job) for run, job in json.loads((folder / FILE).read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def in_queue() -> frozenset[str]:
    """Ids of the user's jobs that wait or run, array jobs one by one."""
    return frozenset(_squeue("--me", "--format=%i"))


def _squeue(*asked: str) -> list[str]:
    """A word for each job that is asked for; array jobs one by one."""
    command = ["squeue", "--noheader", "--array", *asked]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        told = " ".join(str(getattr(error, "stderr", "") or error).split())
        raise RequestError("launcher", "slurm", f"a SLURM controller that answers squeue ({told})") from error
    return done.stdout.split()


def _executor(node: DictConfig, cluster: str) -> Any:
    from submitit import AutoExecutor

    values: dict[str, Any] = OmegaConf.to_container(node, resolve=True)  # type: ignore[assignment]
    limits = {"slurm_max_num_timeout": values["max_num_timeout"]} if "max_num_timeout" in values else {}
    executor = AutoExecutor(folder=values["submitit_folder"], cluster=cluster, **limits)
    parameters = {key: value for key, value in values.items() if key not in NOT_PARAMETERS and value is not None}
    named = {key if key in UNPREFIXED else f"{cluster}_{key}": value for key, value in parameters.items()}
    try:
        executor.update_parameters(**named)
    except (ValueError, NameError, AssertionError) as error:
        raise RequestError("hydra.launcher", cluster, " ".join(str(error).split())[:300]) from error
    return executor


def all_ids(jobs: Mapping[str, str]) -> Sequence[str]:
    """The jobs without their places in an array: what a user names to cancel or look at them."""
    return list(dict.fromkeys(job.partition("_")[0] for job in jobs.values()))
