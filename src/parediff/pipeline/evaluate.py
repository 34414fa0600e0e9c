"""From a model to numbers: its outputs through the metrics, its costs watched on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parediff.cost.base import Cost, WatchedCost
from parediff.errors import RequestError
from parediff.metrics.base import Metric
from parediff.models.finite import NotFinite
from parediff.results.jackknife import jackknife_error
from parediff.sampling.batch import Batch, frames
from parediff.sampling.blocks import Blocks
from parediff.tasks.base import Task

SHOWN = 64


@dataclass(frozen=True)
class Evaluation:
    """What a model's outputs were worth and what one cost; `pictures` are the first ones, uint8 NCHW.

    `left_out` holds each number without each block of seeds in turn, for the errors of differences.
    `remarks` are what a reader should know of a number, such as that it stands on too few images.
    """

    quality: dict[str, float | None]
    fidelity: dict[str, float | None]
    stderr: dict[str, float]
    left_out: dict[str, list[float]]
    cost: dict[str, Any]
    pictures: Tensor
    remarks: dict[str, list[str]]


def evaluate(
    task: Task,
    model: Any,
    metrics: Mapping[str, Metric],
    costs: Mapping[str, Cost],
    reference: np.ndarray | None,
    on_batch: Callable[[Batch], None],
    blocks: Blocks | None = None,
) -> Evaluation:
    """Run the workload; `reference` holds the uncompressed model's outputs row by row, None where it runs itself.

    `blocks` keeps what was drawn until the caller removes it.
    """
    used = {name: metric for name, metric in metrics.items() if reference is not None or metric.section == "quality"}
    for metric in used.values():
        metric.reset()
    cost: dict[str, Any] = {}
    pictures: list[Tensor] = []
    block = 0
    for batch in _watched(task, model, costs, cost, blocks, as_reference=reference is None):
        if batch.block != block:
            block = batch.block
            for metric in used.values():
                metric.next_block()
        if batch.rows.start == 0:
            _check(used, batch)
        for metric in used.values():
            metric.take(batch, None if reference is None else _rows(reference, batch))
        if sum(map(len, pictures)) < SHOWN:
            pictures.append(batch.pictures[: SHOWN - sum(map(len, pictures))])
        on_batch(batch)
    values = {name: finite(name, metric.compute()) for name, metric in used.items()}
    left_out = {name: found for name, metric in used.items() if (found := metric.left_out()) is not None}
    errors = {name: finite(f"stderr of {name}", jackknife_error(found)) for name, found in left_out.items()}
    return Evaluation(
        quality={name: value for name, value in values.items() if used[name].section == "quality"},
        fidelity={name: value for name, value in values.items() if used[name].section == "fidelity"},
        stderr=errors,
        left_out=left_out,
        cost=cost,
        pictures=torch.cat(pictures),
        remarks={name: told for name, metric in used.items() if (told := metric.remarks())},
    )


def finite(name: str, value: Any) -> Any:
    """The number, or None where it is not defined; raises NotFinite for NaN and infinity, which are neither."""
    if isinstance(value, float) and not math.isfinite(value):
        raise NotFinite(f"{name} is {value}: no number can be reported")
    return value


def _check(metrics: Mapping[str, Metric], batch: Batch) -> None:
    """Refuse what only drawn images tell, where a model does not know their shape beforehand."""
    shape = frames(batch.outputs).shape
    for name, metric in metrics.items():
        if metric.judges != "images":
            continue
        try:
            metric.check(batch.wanted, (shape[1], shape[2], shape[3]))
        except RequestError as error:
            raise error.within(f"metrics.{name}") from error


def _rows(reference: np.ndarray, batch: Batch) -> Tensor:
    return torch.from_numpy(np.array(reference[batch.rows.start : batch.rows.stop]))


def _watched(
    task: Task,
    model: Any,
    costs: Mapping[str, Cost],
    found: dict[str, Any],
    blocks: Blocks | None,
    *,
    as_reference: bool,
) -> Iterator[Batch]:
    """The workload's batches; what the first one cost, and one image by itself, goes into `found`, per image."""
    watched = {name: cost for name, cost in costs.items() if isinstance(cost, WatchedCost)}
    batches = task.batches(model, as_reference=as_reference, blocks=blocks)
    with ExitStack() as stack:
        along = {name: stack.enter_context(cost.watch(model)) for name, cost in watched.items() if not cost.alone}
        first = next(batches)
    found.update({name: finite(name, per_image(len(first.rows))) for name, per_image in along.items()})
    yield first
    yield from batches
    for name, cost in watched.items():
        if cost.alone:
            with cost.watch(model) as per_image:
                task.few(model, 1, as_reference=as_reference)()
            found[name] = finite(name, per_image(1))
