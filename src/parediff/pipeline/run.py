"""One run: a model, made cheaper, becomes one honest point on record."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from parediff.atomic import write_atomically
from parediff.config.request import Request
from parediff.cost.base import PairedCost, SpentCost
from parediff.pipeline.baseline import Baseline, baseline
from parediff.pipeline.compress import compress, save
from parediff.pipeline.evaluate import evaluate
from parediff.pipeline.progress import Reporter
from parediff.pipeline.several import Crew
from parediff.pipeline.statement import method_code, protocol_of, record_of, synthesis_details, write
from parediff.pipeline.syntheses import Syntheses
from parediff.pipeline.unfinished import Unfinished, discard
from parediff.provenance import fingerprint
from parediff.results import record as records
from parediff.results.record import Record
from parediff.sampling.image_grid import sheet
from parediff.tasks.base import Calibrated
from parediff.training.fit import logger_of


@dataclass
class Stages:
    """Seconds of each stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def time(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)


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
    record = record_of(request, protocol, result, reference, cost, reference_cost, fired, stages.seconds, calibrated)
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

    def fitted(trainer: Any, name: str, module: Any, data: Any, folder: Path) -> None:
        report.stage(f"train {name}")
        last = "last" if (folder / "checkpoints" / "last.ckpt").exists() else None
        trainer.fit(module, folder, data=data, logger=logger_of(request.tracker), ckpt_path=last)

    def make(name: str, module: Any, steps: int) -> None:
        trainer = replace(request.trainer, max_steps=steps)
        syntheses.fit(name, module, steps, lambda folder: fitted(trainer, f"calibration/{name}", module, None, folder))

    def fit(name: str, module: Any) -> None:
        learns = request.methods[name].learns_from_data
        data = calibrated.learned_from() if learns else None
        fitted(request.trainer, name, module, data, unfinished.training(name))
        trained.append(name)
        student.denoiser.to(request.device)

    def settle(place: int, state: Mapping[str, Tensor]) -> None:
        unfinished.settle(place, state, _told(request, calibrated, trained, told, syntheses.saved))

    syntheses = Syntheses(Path(request.config["runs_dir"]) / ".syntheses", synthesis_details(request))
    calibrated = request.task.calibrated(teacher, make, unfinished.calls)
    settled = before and (before[0], before[1])
    state = compress(student, teacher, request.methods, calibrated.calls, fit, settle, settled)
    if crew is not None and request.methods:
        crew.take(student, state)
    if request.config["save"]:
        save(state, request.folder)
    return _told(request, calibrated, trained, told, syntheses.saved)


def _told(
    request: Request, calibrated: Calibrated, trained: list[str], before: dict[str, Any], saved: float
) -> dict[str, Any]:
    """Source, protocol, images and seconds of a calibration; its images, where there are any, as a grid beside.

    `before` is what was told of the part that an earlier process did; `saved`: seconds of trainings that an earlier run
    did, which count as this one's.
    """
    earlier = {} if calibrated.remade and calibrated.samples else before
    pictures = calibrated.pictures()
    if pictures is not None:
        write_atomically(request.folder / records.CALIBRATION_SHEET, sheet(pictures))
    sheet_name = before.get("pictures") if pictures is None else records.CALIBRATION_SHEET
    return {
        **before,
        **calibrated.told(),
        "source": type(request.calibration).__module__.rpartition(".")[2],
        "protocol": "finetune" if trained else before.get("protocol", "calibrate"),
        "samples": earlier.get("samples", 0) + calibrated.samples,
        "seconds": round(earlier.get("seconds", 0.0) + calibrated.seconds + saved, 3),
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
