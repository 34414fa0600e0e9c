"""One run: a model, made cheaper, becomes one honest point on record."""

from __future__ import annotations

import contextlib
import shutil
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from parediff.atomic import WriteError, write_atomically
from parediff.calibration.base import LazyCalls
from parediff.config.request import Request, build
from parediff.cost import paired_latency
from parediff.errors import RequestError
from parediff.models.classifiers.pretrained import PretrainedClassifier
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.pipeline.baseline import Baseline, baseline
from parediff.pipeline.compress import CallsOf, compress, save
from parediff.pipeline.evaluate import Evaluation, evaluate, peak_of
from parediff.pipeline.progress import Reporter
from parediff.provenance import fingerprint, versions
from parediff.results import record as records
from parediff.results.record import Record
from parediff.sampling.image_grid import sheet
from parediff.training.fit import logger_of

VERSIONS_THAT_MATTER = ("torch", "diffusers", "torchmetrics", "clean-fid")


@dataclass
class Outcome:
    """What a run came to: the path of its record, or the one line that says why there is none."""

    id: str
    path: Path | None
    status: str
    error: str | None = None


@dataclass
class Stages:
    """Seconds of each stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def time(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)


def task(config: DictConfig) -> Outcome:
    """What a launcher runs, in this process or another: never raises, so that the other runs go on."""
    request = build(config)
    if request.config["resume"] and _finished(request):
        return Outcome(request.id, request.folder / records.NAME, "finished")
    report = Reporter(request.folder)
    try:
        request.tracker.start(request.config, request.config["study"], "run", request.id)
        result = _line_of(request)(request, report)
    except WriteError as error:
        return Outcome(request.id, None, "failed", str(error))
    except Exception as error:  # noqa: BLE001 - whatever went wrong belongs on record; nothing is swallowed
        return _failed(request, error)
    finally:
        request.tracker.finish()
        report.close()
    return Outcome(request.id, request.folder / records.NAME, result.status)


def _line_of(request: Request) -> Callable[[Request, Reporter], Record]:
    """The line that fits what is compressed."""
    if isinstance(request.model, PretrainedClassifier):
        from parediff.pipeline.classify import classify

        return classify
    return run


def run(request: Request, report: Reporter) -> Record:
    """The line: model, compress, sample, metrics and cost, record, tracker."""
    stages = begin(request)
    with stages.time("load"):
        report.stage("load")
        teacher = request.model.load(request.device)
        student = teacher.copy()
    protocol = protocol_of(request)
    with stages.time("baseline"):
        reference = _baseline(request, teacher, protocol, report)
    with stages.time("compress"):
        compress_model(
            request, student, teacher, report, lambda model: LazyCalls(request.calibration, model, request.sampler)
        )
    with stages.time("sample"):
        report.stage("sample", request.workload.count)
        result = evaluate(
            student,
            request.workload,
            request.sampler,
            request.metrics,
            reference.images,
            lambda batch: report.advance(len(batch.seeds)),
        )
    fired = {name: method.fired(student) for name, method in request.methods.items()}  # now it has sampled
    with stages.time("cost"):
        report.stage("cost")
        cost, reference_cost = _costs(request, student, teacher, result, reference)
    record = _record(request, protocol, result, reference, cost, reference_cost, fired, stages)
    return finish(request, record, result.shown, report)


def begin(request: Request) -> Stages:
    """What comes before any line: threads, and no remains of a training that is not to be resumed."""
    if not request.config["resume"]:
        shutil.rmtree(request.folder / "training", ignore_errors=True)
    if request.config["threads"]:
        torch.set_num_threads(request.config["threads"])
    return Stages()


def finish(request: Request, record: Record, shown: Tensor, report: Reporter) -> Record:
    """What ends any line: the record on disk, then the tracker; checkpoints go unless the model is kept."""
    write(request, record, shown)
    report.stage("track")
    request.tracker.log_record(record.to_json(), request.folder / "samples.png")
    if not request.config["save"]:
        shutil.rmtree(request.folder / "training", ignore_errors=True)
    return record


def protocol_of(request: Request) -> dict[str, Any]:
    """Everything that two records must share to be compared."""
    return {
        "model": request.model.fingerprint(),
        "workload": {"count": request.workload.count, "conditions": request.workload.labels},
        "reference": request.config["reference"],
        "metrics": {name: metric.fingerprint() for name, metric in request.metrics.items()},
        "versions": versions(VERSIONS_THAT_MATTER),
    }


def _baseline(request: Request, teacher: DiffusionModel, protocol: dict[str, Any], report: Reporter) -> Baseline:
    details = protocol | {"first_seed": request.workload.first_seed, "blocks": request.workload.blocks}
    cache = Path(request.config["runs_dir"]) / ".baselines"
    return baseline(teacher, request.workload, request.reference, request.metrics, details, cache, report)


def compress_model(request: Request, student: Any, teacher: Any, report: Reporter, calls_of: CallsOf) -> dict[str, Any]:
    """Apply the methods; what each of them says it did."""
    if not request.methods:
        return {}
    report.stage("compress")

    def fit(name: str, module: Any) -> None:
        report.stage(f"train {name}")
        folder = request.folder / "training" / name
        last = "last" if (folder / "checkpoints" / "last.ckpt").exists() else None
        request.trainer.fit(module, folder, data=request.data(), logger=logger_of(request.tracker), ckpt_path=last)
        student.denoiser.to(request.device)

    state = compress(student, teacher, request.methods, calls_of, fit)
    if request.config["save"]:
        save(state, request.folder / "model")
    fired = {name: method.fired(student) for name, method in request.methods.items()}
    for name, proof in fired.items():
        if not proof:
            raise RuntimeError(f"{name} shows no effect on {student.name}")
    return fired


def _costs(
    request: Request, student: DiffusionModel, teacher: DiffusionModel, result: Evaluation, reference: Baseline
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Cost of candidate and baseline; seconds of both from the same alternating pairs, or none for emulated methods."""
    peak = peak_of(student, request.workload, request.sampler)
    cost, reference_cost = result.cost | {"peak_memory_bytes": peak}, dict(reference.cost)
    cost["latency_s"] = reference_cost["latency_s"] = None
    if any(method.emulated for method in request.methods.values()):
        return cost, reference_cost
    settings = request.config["latency"]
    seeds, given = next(request.workload.batches())
    count = min(settings["images"], len(seeds))

    def seconds_of(model: DiffusionModel, sampler: Any) -> Any:
        conditions = given if given is not None else model.conditions_for(seeds)
        return lambda: model.generate(seeds[:count], conditions and conditions[:count], sampler)

    pairs = paired_latency(
        seconds_of(teacher, request.reference),
        seconds_of(student, request.sampler),
        repeats=settings["repeats"],
        warmup=settings["warmup"],
    )
    shared = {"latency_batch": count, "latency_drift": pairs.drift}
    cost |= {"latency_s": pairs.second_s / count, "latency_spread_s": pairs.second_spread_s / count, **shared}
    reference_cost |= {"latency_s": pairs.first_s / count, "latency_spread_s": pairs.first_spread_s / count, **shared}
    return cost, reference_cost


def _record(
    request: Request,
    protocol: dict[str, Any],
    result: Evaluation,
    reference: Baseline,
    cost: dict[str, Any],
    reference_cost: dict[str, Any],
    fired: dict[str, Any],
    stages: Stages,
) -> Record:
    return Record(
        **asked(request),
        status="finished",
        protocol=fingerprint(protocol),
        protocol_details=protocol,
        quality=result.quality,
        fidelity=result.fidelity,
        stderr=result.stderr,
        cost=cost,
        baseline={"quality": reference.quality, "stderr": reference.stderr, "cost": reference_cost},
        fired=fired,
        better={name: metric.better for name, metric in request.metrics.items()},
        seconds=stages.seconds,
    )


def asked(request: Request) -> dict[str, Any]:
    """The part of a record that is known before anything ran."""
    workload, sampler = request.workload, request.sampler
    return {
        "id": request.id,
        "study": request.config["study"],
        "model": request.model.name,
        "methods": list(request.methods),
        "sampler": {"name": sampler.name, "steps": sampler.steps, "eta": sampler.eta},
        "workload": {"first_seed": workload.first_seed, "count": workload.count, "conditions": workload.conditions},
        "config": dict(request.config),
        "code": records.code(),
        "environment": records.environment() | {"device": request.device},
    }


def write(request: Request, record: Record, shown: Tensor) -> None:
    """Config and samples first, the record last: where a record stands, the run is whole."""
    folder = request.folder
    write_atomically(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(request.config))))
    write_atomically(folder / "samples.png", sheet(shown))
    records.write(record, folder)


def _finished(request: Request) -> bool:
    try:
        return records.read(request.folder).status == "finished"
    except records.RecordError:
        return False


def _failed(request: Request, error: Exception) -> Outcome:
    """The failure on record, its traceback beside it."""
    line = " ".join(str(error).split()) or type(error).__name__
    told = line if isinstance(error, RequestError) else f"{type(error).__name__}: {line}"
    failure = Record(**asked(request), status="failed", error=told, protocol="")
    try:
        write_atomically(request.folder / "error.txt", "".join(traceback.format_exception(error)))
        path: Path | None = records.write(failure, request.folder)
    except WriteError as unwritten:
        path, told = None, f"{told} ({unwritten})"
    request.tracker.log_record(failure.to_json(), None)
    return Outcome(request.id, path, "failed", told)
