"""A sampler: one of diffusers' schedulers, with its number of steps."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import diffusers
import torch

from parediff.errors import RequestError


@dataclass(frozen=True)
class Sampler:
    """`steps` of a diffusers `scheduler` over the pipeline's own noise schedule; `eta` is DDIM's stochasticity."""

    name: str
    scheduler: str
    steps: int
    eta: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or isinstance(self.steps, bool) or not 1 <= self.steps <= 10_000:
            raise RequestError("steps", self.steps, "a whole number from 1 to 10000 is accepted")
        if not hasattr(diffusers, self.scheduler):
            raise RequestError("scheduler", self.scheduler, "the name of a diffusers scheduler class is accepted")
        if not isinstance(self.eta, int | float) or not 0 <= self.eta <= 1:
            raise RequestError("eta", self.eta, "a number from 0 to 1 is accepted")
        if self.eta and "eta" not in inspect.signature(self._scheduler_class().step).parameters:
            raise RequestError("eta", self.eta, f"{self.scheduler} has no eta; only 0 is accepted")

    def _scheduler_class(self) -> Any:
        return getattr(diffusers, self.scheduler)

    def scheduler_for(self, pipeline: Any) -> Any:
        """A fresh scheduler over the pipeline's noise schedule; steps are not yet set."""
        trained = pipeline.scheduler.config.get("num_train_timesteps", self.steps)
        if self.steps > trained:
            raise RequestError("sampler.steps", self.steps, f"at most the {trained} steps of training are accepted")
        return self._scheduler_class().from_config(copy.deepcopy(dict(pipeline.scheduler.config)), **self.options)


def generators_for(seeds: Sequence[int]) -> list[torch.Generator]:
    """One generator per image, on the CPU so that every device draws the same noise."""
    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


@contextmanager
def seeded_steps(scheduler: Any, generators: list[torch.Generator], eta: float, after: Any) -> Iterator[None]:
    """Make `scheduler.step` draw each image's noise from its own generator, whoever calls it; `after()` follows a step.

    A batch that holds every image k times (classifier-free guidance) draws k times from each generator. Where the
    scheduler owns a Brownian path (DPM++ SDE) instead of taking a generator, every image gets a path of its own seed.
    """
    plain = scheduler.step
    accepted = inspect.signature(plain).parameters

    @functools.wraps(plain)
    def step(model_output: Any, timestep: Any, sample: Any, *args: Any, **kwargs: Any) -> Any:
        if hasattr(scheduler, "noise_sampler_seed"):
            seeds = [generator.initial_seed() for generator in generators]
            scheduler.noise_sampler_seed = seeds * (len(sample) // len(seeds))
        if "generator" in accepted and len(args) == 0:
            kwargs["generator"] = generators * (len(sample) // len(generators))
        if "eta" in accepted and len(args) == 0:
            kwargs["eta"] = eta
        result = plain(model_output, timestep, sample, *args, **kwargs)
        after()
        return result

    scheduler.step = step
    try:
        yield
    finally:
        del scheduler.step
