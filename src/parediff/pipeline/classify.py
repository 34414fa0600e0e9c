"""One run for a classifier: it is made cheaper, answers held-out images, and becomes one honest point on record."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from parediff.atomic import write_atomically
from parediff.config.request import Request
from parediff.cost import counting, paired_latency, peak_memory, size_bytes
from parediff.metrics.base import jackknife
from parediff.metrics.robustness import NetworkMetric
from parediff.metrics.statistics import Mean
from parediff.models.classifiers.model import ClassifierModel
from parediff.models.diffusion.door import Call
from parediff.pipeline.progress import Reporter
from parediff.pipeline.run import VERSIONS_THAT_MATTER, asked, begin, compress_model, finish
from parediff.provenance import fingerprint, versions
from parediff.results.record import Record
from parediff.sampling.images import to_uint8

SHOWN = 64


@dataclass(frozen=True)
class Answers:
    """Predicted classes [N] of the held-out images in order, quality and its standard errors, cost of one image."""

    predicted: np.ndarray
    quality: dict[str, float | None]
    stderr: dict[str, float | None]
    cost: dict[str, Any]


def classify(request: Request, report: Reporter) -> Record:
    """The line: model, compress, top-1 on held-out data, cost, record, tracker."""
    stages = begin(request)
    with stages.time("load"):
        report.stage("load")
        teacher = ClassifierModel(request.model.load(request.device), name=request.model.name)
        student, data = teacher.copy(), request.data()
    protocol = _protocol(request, data)
    with stages.time("baseline"):
        reference = _baseline(request, teacher, data, protocol, report)
    with stages.time("compress"):
        calls = calibration_calls(request, teacher, data)
        fired = compress_model(request, student, teacher, report, lambda _: calls)
    with stages.time("evaluate"):
        result = answer(request, student, data, report)
    with stages.time("cost"):
        cost, reference_cost = _timed(request, student, teacher, data, result.cost, reference.cost)
    agreement = float((result.predicted == reference.predicted).mean())
    record = Record(
        **asked(request) | {"sampler": {"name": "none"}, "workload": {"first_seed": 0, "count": len(result.predicted)}},
        status="finished",
        protocol=fingerprint(protocol),
        protocol_details=protocol,
        quality=result.quality,
        fidelity={"agreement": agreement},
        stderr=result.stderr,
        cost=cost,
        baseline={"quality": reference.quality, "stderr": reference.stderr, "cost": reference_cost},
        fired=fired,
        better=dict.fromkeys((*result.quality, "agreement"), "higher"),
        seconds=stages.seconds,
    )
    return finish(request, record, shown(data), report)


def answer(request: Request, model: ClassifierModel, data: Any, report: Reporter) -> Answers:
    """The workload's count of held-out images through the network; blocks of them give the standard errors."""
    asked_for = spread(len(data.held_out), request.workload.count)
    report.stage("evaluate", len(asked_for))
    probes = probes_of(request)
    for probe in probes.values():
        probe.reset()
    hits: list[Mean] = []
    predicted: list[Tensor] = []
    cost: dict[str, Any] = {}
    for block in blocks(len(asked_for), request.workload.blocks):
        right = Mean(0, 0.0)
        chosen = [asked_for[index] for index in block]
        for images, labels in loader(Subset(data.held_out, chosen), request.workload.batch_size):
            images, labels = images.to(model.device), labels.to(model.device)
            if not cost:
                cost = operations(model, images)
            classes = model.predict(images, torch.zeros(len(images)), {}).argmax(1)
            right = right.merge(Mean.of((classes == labels).double().cpu().numpy()))
            predicted.append(classes.cpu())
            for probe in probes.values():
                probe.observe(model.denoiser, images, labels)
            report.advance(len(images))
        hits.append(right)
        for probe in probes.values():
            probe.next_block()
    quality = {"top1": _value(hits)} | {name: probe.compute() for name, probe in probes.items()}
    errors = {"top1": jackknife(hits, _value)} | {name: probe.stderr() for name, probe in probes.items()}
    stderr: dict[str, float | None] = {name: error for name, error in errors.items() if error is not None}
    return Answers(torch.cat(predicted).numpy(), quality, stderr, cost)


def _value(blocks: Any) -> float | None:
    return sum(block.total for block in blocks) / sum(block.count for block in blocks)


def blocks(count: int, number: int) -> list[range]:
    """`number` contiguous ranges that cover range(count), as even as can be."""
    ends = [count * index // number for index in range(number + 1)]
    return [range(start, stop) for start, stop in pairwise(ends) if stop > start]


def spread(total: int, wanted: int) -> list[int]:
    """`wanted` of range(total), evenly spaced; all of it where it holds fewer."""
    taken = min(total, wanted)
    return [index * total // taken for index in range(taken)]


def loader(dataset: Any, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    return iter(DataLoader(dataset, batch_size=batch_size))


@torch.no_grad()
def operations(model: ClassifierModel, images: Tensor) -> dict[str, Any]:
    """MACs, BOPs, bytes and peak memory of one image."""
    with counting(model.denoiser) as counter:
        model.predict(images, torch.zeros(len(images)), {})
    with peak_memory(model.device, model.denoiser) as peak:
        model.predict(images[:1], torch.zeros(1), {})
    per_image = counter.per_image(len(images))
    size = size_bytes(model.denoiser)
    return {
        "macs": per_image.macs,
        "bops": per_image.bops,
        "nfe": 1.0,
        "size_bytes": size,
        "peak_memory_bytes": peak.bytes,
    }


def probes_of(request: Request) -> Mapping[str, NetworkMetric]:
    """The metrics that judge networks; those of drawn images have nothing to judge here."""
    return {name: metric for name, metric in request.metrics.items() if isinstance(metric, NetworkMetric)}


def calibration_calls(request: Request, model: ClassifierModel, data: Any) -> list[Call]:
    """As many training images as the calibration has trajectories, spread evenly over the set."""
    chosen = spread(len(data.train), len(request.calibration.seeds))
    batches = loader(Subset(data.train, chosen), request.workload.batch_size)
    return [model.call(images.to(model.device)) for images, _ in batches]


def shown(data: Any) -> Tensor:
    """The first held-out images, uint8 NCHW."""
    images, _ = next(loader(data.held_out, SHOWN))
    return to_uint8((images + 1) / 2)


def _protocol(request: Request, data: Any) -> dict[str, Any]:
    """Everything that two records must share to be compared."""
    images, labels = next(loader(data.held_out, SHOWN))
    sample = fingerprint([round(float(images.double().mean()), 9), labels.tolist()])
    return {
        "model": request.model.fingerprint(),
        "data": {"name": data.name, "held_out": min(len(data.held_out), request.workload.count), "sample": sample},
        "metrics": {"top1": {}} | {name: probe.fingerprint() for name, probe in probes_of(request).items()},
        "versions": versions(VERSIONS_THAT_MATTER),
    }


def _baseline(
    request: Request, teacher: ClassifierModel, data: Any, protocol: dict[str, Any], report: Reporter
) -> Answers:
    """The uncompressed network's answers from the cache, or given now; other processes wait for them."""
    settings = {"blocks": request.workload.blocks, "batch_size": request.workload.batch_size}
    folder = Path(request.config["runs_dir"]) / ".baselines" / fingerprint(protocol | settings)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "answers.json"
    with FileLock(folder / "lock"):
        if not file.exists():
            fresh = answer(request, teacher, data, report)
            content = {
                "predicted": fresh.predicted.tolist(),
                "quality": fresh.quality,
                "stderr": fresh.stderr,
                "cost": fresh.cost,
            }
            write_atomically(file, json.dumps(content))
        content = json.loads(file.read_text())
    return Answers(np.array(content["predicted"]), content["quality"], content["stderr"], content["cost"])


def _timed(
    request: Request,
    student: ClassifierModel,
    teacher: ClassifierModel,
    data: Any,
    cost: dict[str, Any],
    reference: dict[str, Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both costs with seconds of alternating pairs; emulated arithmetic has none."""
    cost, reference = cost | {"latency_s": None}, reference | {"latency_s": None}
    if any(method.emulated for method in request.methods.values()):
        return cost, reference
    settings = request.config["latency"]
    images, _ = next(loader(data.held_out, settings["images"]))
    images = images.to(teacher.device)
    with torch.no_grad():
        pairs = paired_latency(
            lambda: teacher.denoiser(images),
            lambda: student.denoiser(images),
            repeats=settings["repeats"],
            warmup=settings["warmup"],
        )
    count = len(images)
    return cost | {"latency_s": pairs.second_s / count}, reference | {"latency_s": pairs.first_s / count}
