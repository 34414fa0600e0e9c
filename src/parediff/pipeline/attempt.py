"""Trying a run: who has it, whether it stands already, and what is said where it fails."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig

from parediff.atomic import WriteError, tidy, write_atomically
from parediff.config.request import Request, build
from parediff.errors import RequestError
from parediff.pipeline.progress import Reporter
from parediff.pipeline.run import run
from parediff.pipeline.several import several
from parediff.pipeline.statement import measuring_code, method_code, stated_by
from parediff.pipeline.unfinished import NAME as UNFINISHED
from parediff.pipeline.unfinished import discard
from parediff.results import record as records
from parediff.results.lease import lease
from parediff.results.progress import NAME as PROGRESS
from parediff.results.record import Record


@dataclass
class Outcome:
    """What a run came to: the path of its record, or the one line that says why there is none.

    `status` is finished or failed, `held` where another process has the run, `left` where `resume=failed` leaves it
    alone. `note` says what a reader of the terminal should know, such as why a finished run was measured anew.
    """

    id: str
    path: Path | None
    status: str
    error: str | None = None
    note: str | None = None


def launched(config: DictConfig) -> Outcome:
    """What a launcher runs, in this process or another: never raises, so that the other runs go on.

    A run that another process has is not waited for: there may be others to do.
    """
    return _attempt(build(config), wait=False)


def awaited(config: DictConfig) -> Outcome:
    """The same for what is left over: waits for whoever has the run, and goes on with it where that one was lost."""
    return _attempt(build(config), wait=True)


def _attempt(request: Request, *, wait: bool) -> Outcome:
    try:
        if (outcome := settled(request)) is not None:
            _clear(request, outcome)
            return outcome
        with lease(request.folder, wait=wait) as own:
            if not own:
                return Outcome(request.id, None, "held")
            return settled(request) or _held(request)  # whoever had it may have finished it
    except WriteError as error:
        return Outcome(request.id, None, "failed", str(error))


def settled(request: Request) -> Outcome | None:
    """The outcome of a run that is not to be run: it is finished, or `resume=failed` asks for failed ones only."""
    if not request.config["resume"]:
        return None
    status = _status(request)
    if status == "finished" and not _changed(request):
        return Outcome(request.id, request.folder / records.NAME, "finished")
    if request.config["resume"] == "failed" and status != "failed":
        return Outcome(request.id, None, "left", note="left alone: resume=failed repeats failed runs only")
    return None


def _clear(request: Request, outcome: Outcome) -> None:
    """Remove what a process left that was lost between its record and its end."""
    if outcome.status == "finished" and any((request.folder / name).exists() for name in (UNFINISHED, PROGRESS)):
        with lease(request.folder, wait=False) as own:
            if own:
                discard(request.folder, trainings=not request.config["save"])
                tidy(request.folder)
                Reporter(request.folder).close()


def _held(request: Request) -> Outcome:
    """Run what this process has the lease of."""
    note = _changed(request) if request.config["resume"] else None
    tidy(request.folder)
    report = Reporter(request.folder)
    try:
        request.tracker.start(request.config, request.config["study"], "run", request.id)
        with several(request) as crew:
            result = run(request, report, crew)
    except WriteError as error:
        return Outcome(request.id, None, "failed", str(error))
    except Exception as error:  # noqa: BLE001 - whatever went wrong belongs on record; nothing is swallowed
        return failed(request, error)
    finally:
        request.tracker.finish()
        report.close()
    return Outcome(request.id, request.folder / records.NAME, result.status, note=note)


def _status(request: Request) -> str | None:
    """finished or failed, as the record says; None where there is none."""
    try:
        return records.read(request.folder).status
    except records.RecordError:
        return None


def _changed(request: Request) -> str | None:
    """Why a finished run is to be measured anew; None where its record stands, or there is none."""
    try:
        found = records.read(request.folder)
    except records.RecordError:
        return None
    if found.status != "finished":
        return None
    measured, present = found.protocol_details.get("code", {}), measuring_code(request)
    changed = [name for name in present if measured.get(name) != present[name]]
    before = found.code.get("methods", {})
    changed += [name for name, digest in method_code(request).items() if before.get(name) != digest]
    return f"measured anew: the code of {', '.join(changed)} has changed since" if changed else None


def failed(request: Request, error: Exception) -> Outcome:
    """The failure on record, its traceback beside it; a finished record is never replaced by a failure."""
    line = " ".join(str(error).split()) or type(error).__name__
    told = line if isinstance(error, RequestError) else f"{type(error).__name__}: {line}"
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in line:
        told += "; smaller batches take less: workload.batch_size, calibration.batch_size, data.batch_size"
    failure = Record(**stated_by(request), status="failed", error=told, protocol="")
    try:
        write_atomically(request.folder / "error.txt", "".join(traceback.format_exception(error)))
        if _status(request) == "finished":
            kept = "the finished record of before is kept"
            return Outcome(request.id, request.folder / records.NAME, "failed", f"{told} ({kept})")
        path: Path | None = records.write(failure, request.folder)
    except WriteError as unwritten:
        path, told = None, f"{told} ({unwritten})"
    request.tracker.log_record(failure.to_json(), None)
    return Outcome(request.id, path, "failed", told)
