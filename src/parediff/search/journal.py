"""The memory of a search: Optuna's journal file, which processes of one or several machines share."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import optuna
from filelock import FileLock
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from parediff.errors import RequestError
from parediff.results.lease import is_held, lease
from parediff.search.settings import SearchSettings

Direction = Literal["minimize", "maximize"]
FOLDER, FILE = ".search", "journal.log"
WORKER, BOUNDS = "worker", "over"
"""Attributes of a trial: who works on it, and by how much it is over each constraint."""


class JournalLock:
    """A lock that ends with its holder; what one that was lost left of a line is cut off before anybody reads on."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, FileLock(path.with_suffix(".lock"), fallback_to_soft=False)

    def acquire(self) -> bool:
        self._lock.acquire()
        if self._path.exists():
            self._mend()
        return True

    def release(self) -> None:
        self._lock.release()

    def _mend(self) -> None:
        with self._path.open("r+b") as file:
            content = file.read()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                file.truncate(whole)


@contextmanager
def opened(
    folder: Path, settings: SearchSettings, directions: Sequence[Direction], identity: str
) -> Iterator[tuple[optuna.Study, str]]:
    """(the study in a folder, the name of this worker while the block lasts); made where there is none.

    Raises RequestError where the folder holds a search of another space or other objectives.
    """
    home = folder / FOLDER
    home.mkdir(parents=True, exist_ok=True)
    path = home / FILE
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = JournalStorage(JournalFileBackend(str(path), lock_obj=JournalLock(path)))  # type: ignore[arg-type]
    study = optuna.create_study(
        storage=storage,
        study_name="search",
        directions=list(directions),
        sampler=_sampler(settings),
        load_if_exists=True,
    )
    if study.user_attrs.setdefault("identity", identity) != identity:
        raise RequestError("study", folder.name, "another name: this folder holds another search")
    study.set_user_attr("identity", identity)
    worker = uuid.uuid4().hex[:12]
    with lease(home / worker, wait=False):
        try:
            yield study, worker
        finally:
            shutil.rmtree(home / worker, ignore_errors=True)


def repeat_lost(study: optuna.Study, folder: Path) -> int:
    """Ask again for the points of workers that are gone; how many there were."""
    home = folder / FOLDER
    with lease(home, wait=True):
        lost = [trial for trial in _running(study) if not is_held(home / str(trial.user_attrs.get(WORKER)))]
        for trial in lost:
            study.tell(trial.number, state=TrialState.FAIL)
            if trial.params:
                study.enqueue_trial(trial.params)
            shutil.rmtree(home / str(trial.user_attrs.get(WORKER)), ignore_errors=True)
    return len(lost)


def begun(study: optuna.Study, folder: Path, worker: str, most: int) -> optuna.trial.Trial | None:
    """The next trial, for this worker; None where `most` are told or under way. Lost ones do not count."""
    with lease(folder / FOLDER, wait=True):
        trials = study.get_trials(deepcopy=False)
        counted = [trial for trial in trials if trial.state in COUNTED]
        if len(counted) >= most:
            return None
        trial = study.ask()
        trial.set_user_attr(WORKER, worker)
        return trial


COUNTED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
"""Failed ones, lost ones among them, make room for others."""


def constraints_of(trial: FrozenTrial) -> Sequence[float]:
    """What a trial is over its bounds, each 0 or less where it keeps it."""
    return tuple(trial.user_attrs.get(BOUNDS, ()))


def _running(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def _sampler(settings: SearchSettings) -> BaseSampler:
    rule: Callable[[FrozenTrial], Sequence[float]] | None = constraints_of if settings.constraints else None
    made: dict[str, Callable[[], BaseSampler]] = {
        "tpe": lambda: TPESampler(seed=settings.seed, multivariate=False, constraints_func=rule),
        "nsga2": lambda: NSGAIISampler(seed=settings.seed, constraints_func=rule),
        "random": lambda: RandomSampler(seed=settings.seed),
    }
    return made[settings.sampler]()


def known_points(study: optuna.Study) -> list[dict[str, Any]]:
    """Parameters of every trial that is told, under way or waiting."""
    states = (*COUNTED, TrialState.WAITING)
    trials = study.get_trials(deepcopy=False, states=states)
    return [trial.params or trial.system_attrs.get("fixed_params", {}) for trial in trials]
