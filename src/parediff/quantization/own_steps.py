"""Fitting along the compressed model's own trajectory, step by step: each step sees what the steps before it did."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from parediff.errors import RequestError
from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler

PLAIN = ("DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler")
"""Of diffusers' schedulers: those whose network sees x itself, once a step, and that add no noise of their own."""
Visit = Callable[[int, Sequence[Call]], Sequence[Tensor]]
"""Takes the number of a time step among the sampler's, ascending, and calls of it; the predictions to go on with."""


@torch.no_grad()
def walk(model: DiffusionModel, calls: Iterable[Call], sampler: Sampler, visit: Visit) -> None:
    """Sample from the calls' first x; at every step `visit` fits what it fits, and only then it goes on."""
    check_plain(model, sampler)
    batches, schedulers = _starts(calls, sampler, model)
    times = schedulers[0].timesteps
    for step, t in enumerate(times):
        batches = [replace(call, t=t.expand(len(call.x)), step=step) for call in batches]
        predicted = visit(len(times) - 1 - step, batches)
        steps = zip(batches, schedulers, predicted, strict=True)
        batches = [replace(call, x=scheduler.step(one, t, call.x).prev_sample) for call, scheduler, one in steps]


def _starts(calls: Iterable[Call], sampler: Sampler, model: DiffusionModel) -> tuple[Sequence[Call], Sequence[Any]]:
    found = [call for call in calls if call.step == 0]
    schedulers = [sampler.scheduler_for(model.pipeline) for _ in found]
    for scheduler in schedulers:
        scheduler.set_timesteps(sampler.steps)
    if not found or float(found[0].t[0]) != float(schedulers[0].timesteps[0]):
        accepted = "calls of trajectories of this sampler, with their first step, are accepted"
        raise RequestError("trajectory", "own", accepted)
    return found, schedulers


def check_plain(model: DiffusionModel, sampler: Sampler) -> None:
    """Raise RequestError for a sampler with noise, or of several calls a step, and for guidance."""
    if model.guidance_scale != 1 or sampler.eta != 0:
        raise RequestError("trajectory", "own", "a sampler without noise and a model without guidance are accepted")
    scheduler = sampler.scheduler_for(model.pipeline)
    if type(scheduler).__name__ not in PLAIN or "sde" in str(scheduler.config.get("algorithm_type")):
        accepted = "sampler=ddim, dpmpp_2m or unipc is accepted: one call of the network and no noise at each step"
        raise RequestError("sampler", sampler.name, accepted)
