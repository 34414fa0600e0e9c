"""A sampler: the pipeline's own scheduler or another one of diffusers' of its family, with its number of steps."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import diffusers
import numpy as np
import torch

from parediff.errors import RequestError
from parediff.models.diffusion.families import FLOW, accepted_samplers, family_of, settings_for
from parediff.validation import Range, Share, check_types


@dataclass(frozen=True)
class Sampler:
    """`steps` of a diffusers `scheduler`, or of the pipeline's own where that is null, with the pipeline's settings.

    `eta` is DDIM's stochasticity; `options` are further arguments of the scheduler, and win over the pipeline's.
    """

    name: Annotated[str, "what records call it"]
    scheduler: Annotated[str, "the name of a diffusers scheduler class; null: the pipeline's own"] | None
    steps: Annotated[int, Range(1, 10_000), "of one image"]
    eta: Share = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_types(self)
        if self.scheduler is not None and not hasattr(diffusers, self.scheduler):
            raise RequestError("scheduler", self.scheduler, "the name of a diffusers scheduler class is accepted")
        if self.eta and self.scheduler is not None:
            self._check_eta(getattr(diffusers, self.scheduler))

    def _check_eta(self, kind: Any) -> None:
        if "eta" not in inspect.signature(kind.step).parameters:
            raise RequestError("eta", self.eta, f"{kind.__name__} has no eta; only 0 is accepted")

    def kind_for(self, own: type) -> Any:
        """The scheduler class over a pipeline whose own is `own`."""
        return own if self.scheduler is None else getattr(diffusers, self.scheduler)

    def check(self, own: type, config: Mapping[str, Any]) -> None:
        """Raise RequestError where the pipeline's scheduler `own(**config)` is of another family or fewer steps."""
        trained = config.get("num_train_timesteps", self.steps)
        if self.steps > trained:
            raise RequestError("sampler.steps", self.steps, f"at most the {trained} steps of training are accepted")
        kind = self.kind_for(own)
        if self.eta:
            self._check_eta(kind)
        wanted, asked = family_of(own, config), family_of(kind, {**config, **self.options})
        if wanted != asked or not _takes_shift(kind, own, config):
            names = ", ".join(accepted_samplers(own, config))
            what = "an image-dependent shift of" if wanted == asked else ""
            accepted = f"the model was made for {what} {wanted} ({own.__name__}): {names} are accepted"
            raise RequestError("sampler", self.name, " ".join(accepted.split()))

    def scheduler_for(self, pipeline: Any) -> Any:
        """A fresh scheduler over the pipeline's noise schedule; steps are not yet set."""
        own = pipeline.scheduler
        self.check(type(own), own.config)
        kind = self.kind_for(type(own))
        scheduler = kind.from_config(settings_for(kind, own), **self.options)
        return (
            _with_any_grid(scheduler)
            if kind is not type(own) and family_of(kind, scheduler.config) == FLOW
            else scheduler
        )


def _takes_shift(kind: Any, own: type, config: Mapping[str, Any]) -> bool:
    """Whether the scheduler takes the shift that such a pipeline computes from the image's size."""
    shifted = bool(config.get("use_dynamic_shifting")) and kind is not own
    return not shifted or "mu" in inspect.signature(kind.set_timesteps).parameters


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
    accepted = list(inspect.signature(plain).parameters)
    place = accepted.index("sample")

    @functools.wraps(plain)
    def step(*args: Any, **kwargs: Any) -> Any:
        copies = len(kwargs["sample"] if "sample" in kwargs else args[place]) // len(generators)
        if hasattr(scheduler, "noise_sampler_seed"):
            scheduler.noise_sampler_seed = [generator.initial_seed() for generator in generators] * copies
        if "generator" in accepted[len(args) :]:
            kwargs["generator"] = generators * copies
        if "eta" in accepted[len(args) :]:
            kwargs["eta"] = eta
        result = plain(*args, **kwargs)
        after()
        return result

    scheduler.step = step
    try:
        yield
    finally:
        del scheduler.step


def _with_any_grid(scheduler: Any) -> Any:
    """`set_timesteps` as pipelines of flow matching call it: with noise levels of their own and a shift.

    A solver that spaces its noise levels itself takes their number; one with a fixed shift leaves the computed one out.
    """
    plain = scheduler.set_timesteps
    accepted = inspect.signature(plain).parameters

    def set_timesteps(
        num_inference_steps: int | None = None, device: Any = None, sigmas: Any = None, mu: float | None = None
    ) -> None:
        steps = len(sigmas) if num_inference_steps is None else num_inference_steps
        further: dict[str, Any] = {"sigmas": np.asarray(sigmas)} if "sigmas" in accepted and sigmas is not None else {}
        if mu is not None and scheduler.config.get("use_dynamic_shifting"):
            further["mu"] = mu
        plain(steps, device=device, **further)

    scheduler.set_timesteps = set_timesteps
    return scheduler
