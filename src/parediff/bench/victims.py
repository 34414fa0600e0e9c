"""Processes that die on purpose: runs and writers of records, killed in the middle of their work."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from parediff import atomic
from parediff.results import record as records
from parediff.results.lease import lease
from parediff.results.record import Record

PLACES = ("training", "calibration", "sampling", "evaluation", "record")
"""Where a run can be struck."""


@dataclass
class Strike:
    """The process is killed when it comes to `place` for the `after`-th time; half a file is written then."""

    place: str
    after: int

    def reach(self, place: str) -> None:
        if place != self.place:
            return
        self.after -= 1
        if self.after <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


@contextlib.contextmanager
def struck(strike: Strike) -> Iterator[None]:
    """While the block lasts, every step of a training, every recorded call, drawn batch, judged batch and written file
    may be the last."""
    from parediff.calibration.store import CallStore
    from parediff.metrics.base import Metric
    from parediff.sampling import images
    from parediff.training.base import Learner

    places: list[tuple[Any, str, str]] = [
        (Learner, "optimizer_step", "training"),
        (CallStore, "append", "calibration"),
        (images, "finite_images", "sampling"),
        (Metric, "take", "evaluation"),
    ]
    with contextlib.ExitStack() as stack:
        for owner, name, place in places:
            stack.enter_context(_replaced(owner, name, _watched(getattr(owner, name), place, strike)))
        stack.enter_context(_replaced(atomic, "_replace", _half(atomic._replace, strike)))
        yield


def _watched(plain: Callable[..., Any], place: str, strike: Strike) -> Callable[..., Any]:
    def call(*arguments: Any, **keywords: Any) -> Any:
        strike.reach(place)
        return plain(*arguments, **keywords)

    return call


def _half(plain: Callable[..., Any], strike: Strike) -> Callable[..., Any]:
    """Half of the content stands in the temporary file when the process ends."""

    def replace(path: Path, data: bytes) -> None:
        if strike.place == "record" and strike.after <= 1:
            path.with_name(f".{path.name}.struck.tmp").write_bytes(data[: len(data) // 2])
        strike.reach("record")
        plain(path, data)

    return replace


@contextlib.contextmanager
def _replaced(owner: Any, name: str, other: Any) -> Iterator[None]:
    plain = getattr(owner, name)
    setattr(owner, name, other)
    try:
        yield
    finally:
        setattr(owner, name, plain)


def forked(work: Callable[[], int]) -> int:
    """What a child process of this one ends with; -9 where it was killed. Everything is imported already."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 70
    try:
        code = work()
    finally:
        os._exit(code)


def configs_of(overrides: Sequence[str]) -> list[DictConfig]:
    """Of every run of a request; what they need is imported here, and not by every child anew."""
    from parediff.config.compose import Composer
    from parediff.config.request import build
    from parediff.pipeline.rehearsal import rehearse

    composer = Composer("config")
    configs = [composer.compose(job) for job in composer.jobs(overrides)]
    rehearse(map(build, configs))
    return configs


def run(configs: Sequence[DictConfig], strike: Strike | None) -> int:
    """Every run of a study in a child, one after the other and silently; 1 where one failed."""
    from parediff.pipeline.attempt import awaited
    from parediff.results.progress import write_plan

    def work() -> int:
        silent = io.StringIO()
        logging.disable(logging.WARNING)  # the child's own; handlers keep the stream that they were made with
        planted = struck(strike) if strike else contextlib.nullcontext()
        with contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent), planted:
            write_plan(Path(configs[0].runs_dir) / configs[0].study, {})
            return int(any(awaited(config).status == "failed" for config in configs))

    return forked(work)


def write_records(folder: Path, log: Path, ids: Sequence[str]) -> int:
    """Write those of the records that are not there yet, and note each when it stands."""
    for name in ids:
        with lease(folder / name, wait=True):
            if (folder / name / records.NAME).exists():
                continue
            atomic.tidy(folder / name)
            records.write(Record(id=name, study="writers", status="finished"), folder / name)
        with log.open("a") as file:
            file.write(f"{name}\n")
    return 0


def killed_writers(folder: Path, processes: int, each: int, seed: int) -> tuple[int, int]:
    """(records that were written and are gone or broken, kills): every writer is killed at random and starts again."""
    draw = random.Random(seed)
    logs = [folder / f"{place}.log" for place in range(processes)]
    shares = [[f"{place}-{number}" for number in range(each)] for place in range(processes)]
    alive = {_start(folder, log, ids): (log, ids) for log, ids in zip(logs, shares, strict=True)}
    kills = 0
    while alive:
        time.sleep(0.02)
        if kills < 4 * processes:
            os.kill(draw.choice(list(alive)), signal.SIGKILL)
            kills += 1
        for child in list(alive):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                log, ids = alive.pop(child)
                if os.waitstatus_to_exitcode(status) != 0:
                    alive[_start(folder, log, ids)] = log, ids
    noted = {name for log in logs if log.exists() for name in log.read_text().split()}
    whole = {found.id for found in records.find([folder]).records}
    wanted = {name for ids in shares for name in ids}
    return len((noted | wanted) - whole), kills


def _start(folder: Path, log: Path, ids: Sequence[str]) -> int:
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        code = write_records(folder, log, ids)
    finally:
        os._exit(code)
