"""What a run states: the protocol that its numbers hold under, and its record."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from omegaconf import OmegaConf
from torch import Tensor

from parediff.atomic import write_atomically
from parediff.config.request import Request
from parediff.digest import source_digest
from parediff.methods.base import Method
from parediff.pipeline.baseline import Baseline
from parediff.pipeline.evaluate import Evaluation
from parediff.provenance import fingerprint, versions
from parediff.results import record as records
from parediff.results.difference import from_baseline
from parediff.results.record import Record
from parediff.sampling.image_grid import sheet

VERSIONS_THAT_MATTER = ("torch", "diffusers", "torchmetrics", "clean-fid")


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


def record_of(
    request: Request,
    protocol: dict[str, Any],
    result: Evaluation,
    reference: Baseline,
    cost: dict[str, Any],
    reference_cost: dict[str, Any],
    fired: dict[str, Any],
    seconds: dict[str, float],
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
        seconds=seconds,
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
        "families": {name: family_of(method) for name, method in request.methods.items()},
        **request.task.stated(),
        "config": dict(request.config),
        "code": records.code() | {"methods": method_code(request)},
        "environment": records.environment() | {"device": request.device},
    }


def family_of(method: Method) -> str:
    """Its family; empty for one that has none and corrects nothing."""
    return method.family or ("correction" if method.corrects else "")


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


def synthesis_details(request: Request) -> dict[str, Any]:
    """All that decides a training that makes calibration data, beside the training itself."""
    asked = {key: value for key, value in request.config["calibration"].items() if key != "count"}
    return {
        "calibration": asked,
        "code": source_digest([type(request.calibration).__module__]),
        "trainer": {key: request.config["trainer"][key] for key in ("accelerator", "devices", "precision")},
        "device": request.device,
        "libraries": versions(VERSIONS_THAT_MATTER),
    }
