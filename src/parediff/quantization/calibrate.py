"""Filling the quantisers of a network: weights from themselves, activations from recorded calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from parediff.errors import RequestError
from parediff.models.diffusion.door import Call, Visit
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.quantization.generated import Generated
from parediff.quantization.intervals import IntervalKind, naming, over_time
from parediff.quantization.layers import FoldableLayer, folded, layers_of
from parediff.quantization.quantizer import bypassed
from parediff.quantization.samples import Reservoir, Samples, TimedReservoir, joined, observing
from parediff.quantization.search import Search
from parediff.quantization.time_context import TimeContext, time_context_of

Run = Callable[[Any], Any]
"""Passes one recorded call through the network."""


@dataclass(frozen=True)
class Plan:
    """How quantisers are filled. About `values` numbers of each activation are kept, over all its time steps.

    `weights_first`: activations are observed behind rounded weights, as they will be met. `cells`: the channel of each
    value is kept too. With a `context` values are kept apart by time step.
    """

    kind: IntervalKind
    weights: Search
    activations: Search
    values: int
    weights_first: bool
    cells: bool
    context: TimeContext | None


def input_quantizers(root: nn.Module) -> dict[str, Any]:
    """Every quantiser of an activation that rounds once it is filled, by its path."""
    return {
        f"{path}.{name}": child
        for path, module in layers_of(root).items()
        for name, child in module.named_modules()
        if getattr(child, "wanted", False) and not name.startswith("weight_quantizer")
    }


@torch.no_grad()
def calibrate(root: nn.Module, calls: Iterable[Any], run: Run, plan: Plan) -> None:
    """Fill every quantiser; `run(call)` passes a call through `root` as it is then."""
    if plan.weights_first:
        fit_weights(root, plan.weights)
    quantizers = input_quantizers(root)
    if plan.context is not None:
        plan.context.remember_all(call.t for call in calls)
    with folded(root) if plan.weights_first else nullcontext():
        samples = observe(quantizers, calls, run, plan)
    for name, quantizer in quantizers.items():
        if getattr(quantizer, "beta", None) is not None:
            quantizer.beta.data.copy_(samples[name].values.mean())
            samples[name] = samples[name].minus(quantizer.beta.detach())
    plan.kind.fit(quantizers, samples, plan.activations)
    if not plan.weights_first:
        fit_weights(root, plan.weights)


@torch.no_grad()
def calibrate_along(model: DiffusionModel, walk: Callable[[Visit], None], sampler: Sampler, plan: Plan) -> None:
    """Fit filled quantisers with timed intervals anew, each step's on the trajectory that the steps before it made.

    `walk` takes a visit along the model's own trajectories with this sampler.
    """
    timed = {name: one for name, one in input_quantizers(model.denoiser).items() if one.source.timed}
    place = {name: number for number, name in enumerate(timed)}
    seen: dict[int, Mapping[str, Samples]] = {}

    def reservoir(name: str, step: int) -> Reservoir:
        one = timed[name]
        capacity = max(256, plan.values // sampler.steps)
        return Reservoir(
            one.axis, capacity, place[name] * 100_003 + step, groups=one.channels, cells=plan.cells and one.axis is None
        )

    def visit(entry: int, batches: Sequence[Call]) -> list[Tensor]:
        """Activations are observed unrounded, but of the x that the rounded steps have led to."""
        found = {name: reservoir(name, entry) for name in timed}
        with bypassed(*timed.values()), observing(timed, found):
            for call in batches:
                model.predict(call.x, call.t, call.cond)
        seen[entry] = {name: one.samples() for name, one in found.items()}
        for name, one in timed.items():
            interval = over_time(*plan.activations.fit(seen[entry][name], one.grid), one)
            one.source.fill_entries(slice(entry, entry + 1), *interval)
        return [model.predict(call.x, call.t, call.cond) for call in batches]

    assert plan.context is not None
    plan.context.remember(model.times(sampler))
    walk(visit)
    found = {name: joined([seen[entry][name] for entry in sorted(seen)]) for name in timed}
    plan.kind.fit(timed, found, plan.activations)


def check_coverage(model: DiffusionModel, sampler: Sampler) -> None:
    """Raise where the sampler executes time steps that were not calibrated."""
    known = time_context_of(model.denoiser).known
    missing = sorted(set(model.times(sampler).to(known).tolist()) - set(known.tolist()))
    if missing:
        raise RequestError(
            "calibration.steps",
            len(known),
            f"{len(missing)} of the {sampler.steps} {sampler.name} steps were not calibrated (first t={missing[0]:g}); "
            f"calibration.steps={sampler.steps}, or unseen_steps=interpolate, is accepted",
        )


def tabulate(model: DiffusionModel, steps: Tensor | None) -> None:
    """Evaluate every generator at these time steps, or at the calibrated ones: again and again, for any sampler."""
    if steps is not None:
        time_context_of(model.denoiser).remember(steps)
    for module in model.denoiser.modules():
        if isinstance(module, Generated):
            module.tabulate()


def fit_weights(root: nn.Module, search: Search) -> None:
    """Every weight's interval from the weight itself."""
    for path, module in layers_of(root).items():
        for quantizer, weight in module.weight_parts() if isinstance(module, FoldableLayer) else ():
            if not quantizer.wanted:
                continue
            if not bool(torch.isfinite(weight).all()):
                raise RequestError("model", path, "finite weights are accepted; this layer's hold NaN or infinity")
            with naming(path):
                quantizer.take(Samples.of(weight, quantizer.axis, groups=quantizer.channels), search)


def observe(quantizers: Mapping[str, Any], calls: Iterable[Any], run: Run, plan: Plan) -> dict[str, Samples]:
    """What the calls bring to each quantiser."""
    reservoirs = {name: _reservoir(q, place, plan) for place, (name, q) in enumerate(quantizers.items())}
    for call in _some(calls):
        with observing(quantizers, reservoirs):
            run(call)
    found = {}
    for name, reservoir in reservoirs.items():
        with naming(name):
            found[name] = reservoir.samples()
    return found


def _reservoir(quantizer: Any, seed: int, plan: Plan) -> Reservoir | TimedReservoir:
    """By time step, save of what the network meets before it knows the time."""
    cells = plan.cells and quantizer.axis is None  # groups of channels are apart already
    settings = {"axis": quantizer.axis, "groups": quantizer.channels, "seed": seed, "cells": cells}
    if plan.context is None or quantizer.timeless:
        return Reservoir(capacity=plan.values, **settings)
    capacity = max(256, plan.values // max(1, len(plan.context.known)))
    return TimedReservoir(plan.context, capacity=capacity, **settings)


def _some(calls: Iterable[Any]) -> Iterator[Any]:
    count = 0
    for count, call in enumerate(calls, 1):  # noqa: B007
        yield call
    if not count:
        raise RequestError("calibration", "empty", "at least one recorded call is accepted")
