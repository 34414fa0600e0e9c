"""Numbers about something on its own: finished images, a pipeline, or a compressed model that was kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict

from parediff.atomic import tidy
from parediff.config.request import Request, build
from parediff.pipeline.attempt import failed
from parediff.pipeline.evaluate import evaluate
from parediff.pipeline.progress import Reporter
from parediff.pipeline.run import prepared
from parediff.pipeline.several import Crew, several
from parediff.pipeline.statement import protocol_of, stated_by, units_of, write
from parediff.provenance import fingerprint
from parediff.results import record as records
from parediff.results.lease import lease
from parediff.results.record import Record


def score(config: DictConfig) -> tuple[Record, Path]:
    """The record of what was measured and its path; a failure is on record and raised."""
    with open_dict(config):
        config.reference = config.sampler  # on its own it is its own reference
    request = build(config)
    with lease(request.folder, wait=True):
        tidy(request.folder)
        return _scored(request)


def _scored(request: Request) -> tuple[Record, Path]:
    report = Reporter(request.folder)
    request.tracker.start(request.config, request.config["study"], "evaluate", request.id)
    try:
        with several(request) as crew:
            record, pictures = _measured(request, report, crew)
        write(request, record, pictures)
        request.tracker.log_record(record.to_json(), request.folder / "samples.png")
    except Exception as error:
        failed(request, error)
        raise
    finally:
        request.tracker.finish()
        report.close()
    return record, request.folder / records.NAME


def _measured(request: Request, report: Reporter, crew: Crew | None) -> tuple[Record, Any]:
    stages = prepared(request)
    with stages.time("load"):
        report.stage("load")
        model = request.model.load(request.device)
        if crew is not None:
            crew.draw_for(model)
        protocol = protocol_of(request)
    with stages.time("evaluate"):
        report.stage("evaluate", request.task.count)
        advance: Callable[[Any], None] = lambda batch: report.advance(len(batch.rows))  # noqa: E731
        result = evaluate(request.task, model, request.metrics, request.costs, None, advance)
    record = Record(
        **stated_by(request),
        status="finished",
        protocol=fingerprint(protocol),
        protocol_details=protocol,
        quality=result.quality,
        stderr=dict(result.stderr),
        left_out=result.left_out,
        cost=result.cost,
        remarks=result.remarks,
        seconds=stages.seconds,
        **units_of(request),
    )
    return record, result.pictures
