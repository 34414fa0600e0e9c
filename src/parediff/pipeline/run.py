"""One run: a model, made cheaper, becomes one honest point on record."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from parediff.atomic import WriteError, tidy, write_atomically
from parediff.config.request import Request, build
from parediff.cost.base import PairedCost, SpentCost
from parediff.digest import source_digest
from parediff.errors import RequestError
from parediff.pipeline.baseline import Baseline, baseline
from parediff.pipeline.compress import compress, save
from parediff.pipeline.evaluate import Evaluation, evaluate
from parediff.pipeline.progress import Reporter
from parediff.pipeline.several import Crew, several
from parediff.pipeline.unfinished import NAME as UNFINISHED
from parediff.pipeline.unfinished import Unfinished, discard
from parediff.provenance import fingerprint, versions
from parediff.results import record as records
from parediff.results.difference import from_baseline
from parediff.results.lease import lease
from parediff.results.progress import NAME as PROGRESS
from parediff.results.record import Record
from parediff.sampling.image_grid import sheet
from parediff.tasks.base import Calibrated
from parediff.training.fit import logger_of

VERSIONS_THAT_MATTER = ("torch", "diffusers", "torchmetrics", "clean-fid")


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


@dataclass
class Stages:
    """Seconds of each stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def time(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)


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


def run(request: Request, report: Reporter, crew: Crew | None = None) -> Record:
    """The line: model, baseline, compress, evaluate, cost, record, tracker. `crew` draws a part of the images."""
    stages = prepared(request)
    with stages.time("load"):
        report.stage("load")
        teacher = request.model.load(request.device)
        if request.methods:
            request.task.check(teacher)
        student = teacher.copy()
        if crew is not None:
            crew.draw_for(teacher)
            student.shared = None if request.methods else teacher.shared
        protocol = protocol_of(request)
        unfinished = Unfinished(request.folder, fingerprint(protocol | {"methods": method_code(request)}))
    with stages.time("baseline"):
        reference = baseline_of(request, teacher, protocol, report)
    with stages.time("compress"):
        calibrated = compress_model(request, student, teacher, report, unfinished, crew)
    record, pictures = measured(request, student, teacher, protocol, reference, calibrated, stages, report, unfinished)
    return _finish(request, record, pictures, report, unfinished)


def measured(
    request: Request,
    student: Any,
    teacher: Any,
    protocol: dict[str, Any],
    reference: Baseline,
    calibrated: dict[str, Any],
    stages: Stages,
    report: Reporter,
    unfinished: Unfinished,
) -> tuple[Record, Tensor]:
    """What the compressed model is worth and what it costs, as a record that is not written yet; its first pictures."""
    with stages.time("evaluate"):
        report.stage("evaluate", request.task.count)
        result = evaluate(
            request.task,
            student,
            request.metrics,
            request.costs,
            reference.outputs,
            lambda batch: report.advance(len(batch.rows)),
            unfinished.blocks,
        )
    fired = proof_of(request, student)  # now it has run
    with stages.time("cost"):
        report.stage("cost")
        cost, reference_cost = _compared(request, student, teacher, result.cost, reference.cost)
        cost, reference_cost = cost | _spent(request, calibrated), reference_cost | _spent(request, {})
    record = _record(request, protocol, result, reference, cost, reference_cost, fired, stages, calibrated)
    return record, result.pictures


def prepared(request: Request) -> Stages:
    """What comes before: threads, and no remains of a run that is not to be resumed."""
    if not request.config["resume"]:
        discard(request.folder)
    if request.config["threads"]:
        torch.set_num_threads(request.config["threads"])
    return Stages()


def _finish(request: Request, record: Record, pictures: Tensor, report: Reporter, unfinished: Unfinished) -> Record:
    """What comes after: the record on disk, then the tracker; checkpoints go unless the model is kept."""
    write(request, record, pictures)
    report.stage("track")
    request.tracker.log_record(record.to_json(), request.folder / "samples.png")
    unfinished.remove(trainings=not request.config["save"])
    return record


def protocol_of(request: Request) -> dict[str, Any]:
    """Everything that two records must share to be compared."""
    return {
        "model": request.model.fingerprint(),
        **request.task.protocol(),
        "metrics": {name: metric.fingerprint() for name, metric in request.metrics.items()},
        "versions": versions(VERSIONS_THAT_MATTER),
        "code": measuring_code(request),
    }


def measuring_code(request: Request) -> dict[str, str]:
    """Digests of the code that makes outputs and judges them: of the task, of each metric and of each cost."""
    judges = {**request.metrics, **request.costs}
    digests = {name: source_digest([type(judge).__module__]) for name, judge in judges.items()}
    return {"outputs": source_digest(request.task.measured_by), **digests}


def baseline_of(request: Request, teacher: Any, protocol: dict[str, Any], report: Reporter) -> Baseline:
    """The uncompressed model's own row, from the cache or measured now."""
    details = protocol | {
        "first_seed": request.workload.first_seed,
        "blocks": request.workload.blocks,
        "costs": list(request.costs),
    }
    cache = Path(request.config["runs_dir"]) / ".baselines"
    return baseline(request.task, teacher, request.metrics, request.costs, details, cache, report)


def compress_model(
    request: Request, student: Any, teacher: Any, report: Reporter, unfinished: Unfinished, crew: Crew | None
) -> dict[str, Any]:
    """Apply the methods, in order; keep the state where that is asked for. What the calibration was, for the record."""
    if not request.methods and not request.config["save"]:
        return {}
    report.stage("compress")
    before = unfinished.settled(len(request.methods))
    told: dict[str, Any] = before[2] if before else {}
    trained: list[str] = []

    def fitted(trainer: Any, name: str, module: Any, data: Any) -> None:
        report.stage(f"train {name}")
        folder = unfinished.training(name)
        last = "last" if (folder / "checkpoints" / "last.ckpt").exists() else None
        trainer.fit(module, folder, data=data, logger=logger_of(request.tracker), ckpt_path=last)

    def make(name: str, module: Any, steps: int) -> None:
        fitted(replace(request.trainer, max_steps=steps), f"calibration/{name}", module, None)

    def fit(name: str, module: Any) -> None:
        fitted(request.trainer, name, module, calibrated.learned_from())
        trained.append(name)
        student.denoiser.to(request.device)

    def settle(place: int, state: Mapping[str, Tensor]) -> None:
        unfinished.settle(place, state, _told(request, calibrated, trained, told))

    calibrated = request.task.calibrated(teacher, make, unfinished.calls)
    settled = before and (before[0], before[1])
    state = compress(student, teacher, request.methods, calibrated.calls, fit, settle, settled)
    if crew is not None and request.methods:
        crew.take(student, state)
    if request.config["save"]:
        save(state, request.folder)
    return _told(request, calibrated, trained, told)


def _told(request: Request, calibrated: Calibrated, trained: list[str], before: dict[str, Any]) -> dict[str, Any]:
    """Source, protocol, images and seconds of a calibration; its images, where there are any, as a grid beside.

    `before` is what was told of the part that an earlier process did.
    """
    pictures = calibrated.pictures()
    if pictures is not None:
        write_atomically(request.folder / records.CALIBRATION_SHEET, sheet(pictures))
    sheet_name = before.get("pictures") if pictures is None else records.CALIBRATION_SHEET
    return {
        "source": type(request.calibration).__module__.rpartition(".")[2],
        "protocol": "finetune" if trained else before.get("protocol", "calibrate"),
        "samples": before.get("samples", 0) + calibrated.samples,
        "seconds": round(before.get("seconds", 0.0) + calibrated.seconds, 3),
        "pictures": sheet_name,
    }


def proof_of(request: Request, student: Any) -> dict[str, Any]:
    """What each method says it did; one that changed nothing raises."""
    fired = {name: method.fired(student) for name, method in request.methods.items()}
    for name, proof in fired.items():
        if not proof:
            raise RuntimeError(f"{name} shows no effect on {student.name}")
    return fired


def _compared(
    request: Request, student: Any, teacher: Any, cost: dict[str, Any], reference_cost: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both costs with what is only measured side by side; simulated arithmetic has none of that."""
    cost, reference_cost = dict(cost), dict(reference_cost)
    paired = {name: cost for name, cost in request.costs.items() if isinstance(cost, PairedCost)}
    emulated = any(method.emulated for method in request.methods.values())
    for name, pair in paired.items():
        cost[name] = reference_cost[name] = None
        if emulated:
            continue
        images = min(pair.images, request.task.at_once)
        before, after = pair.compare(
            request.task.few(teacher, images, as_reference=True),
            request.task.few(student, images, as_reference=False),
            images,
        )
        reference_cost |= before
        cost |= after
    return cost, reference_cost


def _spent(request: Request, calibrated: dict[str, Any]) -> dict[str, float]:
    """What making the compressed model took; nothing for the uncompressed one."""
    spent = {name: cost for name, cost in request.costs.items() if isinstance(cost, SpentCost)}
    return {name: cost.of(calibrated) for name, cost in spent.items()}


def _record(
    request: Request,
    protocol: dict[str, Any],
    result: Evaluation,
    reference: Baseline,
    cost: dict[str, Any],
    reference_cost: dict[str, Any],
    fired: dict[str, Any],
    stages: Stages,
    calibrated: dict[str, Any],
) -> Record:
    stated = stated_by(request)
    record = Record(
        **stated | {"workload": stated["workload"] | {"count": request.task.count}},
        status="finished",
        protocol=fingerprint(protocol),
        protocol_details=protocol,
        quality=result.quality,
        fidelity=result.fidelity,
        stderr=dict(result.stderr),
        cost=cost,
        left_out=result.left_out,
        baseline={
            "quality": reference.quality,
            "stderr": reference.stderr,
            "left_out": reference.left_out,
            "cost": reference_cost,
        },
        fired=fired,
        remarks=result.remarks,
        calibration=calibrated,
        seconds=stages.seconds,
        **units_of(request),
    )
    apart = {name: vars(away) for name in record.quality if (away := from_baseline(record, name))}
    return replace(record, baseline={**record.baseline, "difference": apart})


def units_of(request: Request) -> dict[str, Any]:
    """Directions and units of the metrics and costs, as a record states them."""
    judges: dict[str, Any] = {**request.metrics, **request.costs}
    return {
        "better": {name: judge.better for name, judge in judges.items()},
        "units": {
            name: [getattr(judge, "symbol", ""), judge.meaning] for name, judge in judges.items() if judge.meaning
        },
    }


def stated_by(request: Request) -> dict[str, Any]:
    """The part of a record that is known before anything ran."""
    return {
        "id": request.id,
        "study": request.config["study"],
        "model": request.model.name,
        "methods": list(request.methods),
        **request.task.stated(),
        "config": dict(request.config),
        "code": records.code() | {"methods": method_code(request)},
        "environment": records.environment() | {"device": request.device},
    }


def method_code(request: Request) -> dict[str, str]:
    """Digest of the code of each method, and of what they were calibrated with."""
    if not request.methods:
        return {}
    parts = {**request.methods, "calibration": request.calibration}
    return {name: source_digest([type(part).__module__]) for name, part in parts.items()}


def write(request: Request, record: Record, pictures: Tensor) -> None:
    """Config and samples first, the record last: where a record stands, the run is whole."""
    folder = request.folder
    write_atomically(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(request.config))))
    write_atomically(folder / "samples.png", sheet(pictures))
    records.write(record, folder)


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
