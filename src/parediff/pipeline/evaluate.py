"""From a model to numbers: its images through the metrics, its operations and calls counted on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parediff.cost import CallCounter, counting, peak_memory, size_bytes
from parediff.metrics.base import Metric
from parediff.models.diffusion.door import observing
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.sampling import images as sampling
from parediff.sampling.images import Batch
from parediff.sampling.workload import Workload

SHOWN = 64


@dataclass(frozen=True)
class Evaluation:
    """What a sampling run was worth and what it cost per image; `shown` are its first images, uint8 NCHW."""

    quality: dict[str, float | None]
    fidelity: dict[str, float | None]
    stderr: dict[str, float | None]
    cost: dict[str, Any]
    shown: Tensor


def evaluate(
    model: DiffusionModel,
    workload: Workload,
    sampler: Sampler,
    metrics: Mapping[str, Metric],
    reference: np.ndarray | None,
    on_batch: Callable[[Batch], None],
) -> Evaluation:
    """Sample the workload; `reference` holds the same seeds' images of the uncompressed model, uint8 NCHW."""
    used = {name: metric for name, metric in metrics.items() if reference is not None or metric.section == "quality"}
    for metric in used.values():
        metric.reset()
    cost: dict[str, Any] = {}
    shown: list[Tensor] = []
    block = 0
    for batch in _counted(model, workload, sampler, cost):
        if batch.block != block:
            block = batch.block
            for metric in used.values():
                metric.next_block()
        drawn, rows = sampling.frames(batch.images), _rows(reference, batch, workload)
        each = len(drawn) // len(batch.images)
        conditions = batch.conditions and tuple(label for label in batch.conditions for _ in range(each))
        for metric in used.values():
            metric.update(drawn, None if rows is None else sampling.frames(rows), conditions)
        if sum(map(len, shown)) < SHOWN:
            shown.append(drawn[: SHOWN - sum(map(len, shown))])
        on_batch(batch)
    values = {name: metric.compute() for name, metric in used.items()}
    errors = {name: metric.stderr() for name, metric in used.items()}
    return Evaluation(
        quality={name: value for name, value in values.items() if used[name].section == "quality"},
        fidelity={name: value for name, value in values.items() if used[name].section == "fidelity"},
        stderr={name: error for name, error in errors.items() if error is not None},
        cost=cost | {"size_bytes": size_bytes(model.denoiser)},
        shown=torch.cat(shown),
    )


def _rows(reference: np.ndarray | None, batch: Batch, workload: Workload) -> Tensor | None:
    if reference is None:
        return None
    first = batch.seeds[0] - workload.first_seed
    return torch.from_numpy(np.array(reference[first : first + len(batch.seeds)]))


def _counted(model: DiffusionModel, workload: Workload, sampler: Sampler, cost: dict[str, Any]) -> Any:
    """The workload's batches; operations and network evaluations of the first one go into `cost`, per image."""
    batches = sampling.images(model, workload, sampler)
    calls = CallCounter()
    with ExitStack() as stack:
        counter = stack.enter_context(counting(model.denoiser))
        stack.enter_context(observing(model, calls))
        first = next(batches)
    operations = counter.per_image(len(first.seeds))
    cost.update(macs=operations.macs, bops=operations.bops, nfe=calls.per_image(len(first.seeds)))
    yield first
    yield from batches


def peak_of(model: DiffusionModel, workload: Workload, sampler: Sampler) -> int:
    """Peak bytes while one image of the workload is drawn, the denoiser's parameters included."""
    seeds, given = next(workload.batches())
    conditions = given if given is not None else model.conditions_for(seeds)
    with peak_memory(model.device, model.denoiser) as peak:
        model.generate(seeds[:1], conditions and conditions[:1], sampler)
    return peak.bytes
