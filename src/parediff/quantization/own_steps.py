"""Intervals fitted along the quantised model's own trajectory, step by step: each sees what the steps before it did."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from parediff.errors import RequestError
from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.quantization.quantizer import Quantizer, bypassed
from parediff.quantization.samples import Reservoir, Samples, observing

Fit = Callable[[int, Mapping[str, Samples]], None]
"""Takes the number of a time step among the sampler's, ascending, and what each quantiser met there."""


@torch.no_grad()
def walk(
    model: DiffusionModel, calls: Iterable[Call], sampler: Sampler, quantizers: Mapping[str, Quantizer],
    reservoir: Callable[[str, int], Reservoir], fit: Fit,
) -> None:  # fmt: skip
    """Sample from the calls' first x; at every step observe, fit, and only then go on, with all that was fitted.

    Activations are observed unrounded, as of a recorded trajectory, but of the x that the rounded steps have led to.
    """
    _check(model, sampler)
    batches, schedulers = _starts(calls, sampler, model)
    times = schedulers[0].timesteps
    for step, t in enumerate(times):
        seen = {name: reservoir(name, step) for name in quantizers}
        with bypassed(*quantizers.values()), observing(quantizers, seen):
            for call in batches:
                model.predict(call.x, t.expand(len(call.x)), call.cond)
        fit(len(times) - 1 - step, {name: one.samples() for name, one in seen.items()})
        batches = [_next(model, call, scheduler, t) for call, scheduler in zip(batches, schedulers, strict=True)]


def _next(model: DiffusionModel, call: Call, scheduler: Any, t: Tensor) -> Call:
    predicted = model.predict(call.x, t.expand(len(call.x)), call.cond)
    return Call(scheduler.step(predicted, t, call.x).prev_sample, call.t, call.cond, call.step + 1)


def _starts(calls: Iterable[Call], sampler: Sampler, model: DiffusionModel) -> tuple[Sequence[Call], Sequence[Any]]:
    found = [call for call in calls if call.step == 0]
    schedulers = [sampler.scheduler_for(model.pipeline) for _ in found]
    for scheduler in schedulers:
        scheduler.set_timesteps(sampler.steps)
    if not found or float(found[0].t[0]) != float(schedulers[0].timesteps[0]):
        accepted = "calls of trajectories of this sampler, with their first step, are accepted"
        raise RequestError("trajectory", "own", accepted)
    return found, schedulers


def _check(model: DiffusionModel, sampler: Sampler) -> None:
    if model.guidance_scale != 1 or sampler.eta != 0:
        raise RequestError("trajectory", "own", "a sampler without noise and a model without guidance are accepted")
    if sampler.name != "ddim":
        raise RequestError("trajectory", "own", "sampler=ddim is accepted: one call of the network for each step")
