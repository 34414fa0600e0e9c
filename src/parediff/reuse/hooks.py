"""A cache of diffusers around a denoiser's door: its hooks stand while a call lasts, one set for a stream of calls."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from parediff.errors import RequestError
from parediff.models.diffusion.convention import convention_of
from parediff.models.diffusion.door import Condition, Predict, Run, call_network, split_arguments
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.rivals import Count, Hooked, context_of, hooked, tensor_format
from parediff.reuse.engine import refuse_second
from parediff.reuse.replacements import Patch, standing_in

Settings = Callable[[Run, Tensor, Condition], Mapping[str, Any]]
"""What a cache is told about the run and its first call, beside its own settings."""


@dataclass(frozen=True)
class Cache:
    """Makes the wrapper of every run; the only thing that outlives a run is the count."""

    owner: str
    config: str
    settings: Settings
    count: Count = field(default_factory=Count)

    def __call__(self, run: Run) -> CachedCalls:
        return CachedCalls(self, run)


class CachedCalls:
    """One run's hooks: a stream of calls is those at the same place within a step, such as one half of a guidance."""

    def __init__(self, cache: Cache, run: Run) -> None:
        self.cache, self.run = cache, run
        self._streams: list[Hooked] = []
        self._step, self._place = -1, 0
        self._network: Predict | None = None

    def __call__(self, network: Predict, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        if self.run.probing:
            return network(x, t, cond)
        self._place = self._place + 1 if self.run.index == self._step else 0
        self._step, self._network = self.run.index, network
        stream = self._stream(x, cond)
        stream.at(context_of(str(self._place), self.run.index, self.run.steps))
        with standing_in(Patch(module, "forward", forward) for module, forward in stream.forwards):
            if stream.root is None:
                return network(x, t, cond)
            return call_network(self.run.model.denoiser, stream.root, x, t, cond)

    def _stream(self, x: Tensor, cond: Condition) -> Hooked:
        if self._place == len(self._streams):
            settings = self.cache.settings(self.run, x, cond)
            denoiser = self.run.model.denoiser
            self._streams.append(hooked(denoiser, self.cache.config, settings, self.cache.count, self._go_on))
        return self._streams[self._place]

    def _go_on(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        """What a hook on the whole network calls, with as much of the batch as it wants computed."""
        assert self._network is not None
        x, t, cond, _ = split_arguments(self.run.model.denoiser, args, kwargs)
        return (self._network(x, t, cond),)


def install_cache(model: DiffusionModel, cache: Cache, trial: Mapping[str, Any]) -> None:
    """Wrap the door, once diffusers has shown that it can hook the cache to this network."""
    refuse_second(model, cache.owner)
    try:
        hooked(model.denoiser, cache.config, trial, Count(), type(model.denoiser).forward)
    except RequestError as error:
        asked = cache.owner if error.value == cache.config else error.value
        raise RequestError(error.key, asked, error.accepted) from error
    model.wrap(cache)


def installed_cache(model: DiffusionModel, owner: str) -> Cache:
    """What `install_cache` put around the door of this model, or of the one that it was copied from."""
    return next(f for f in model.wrapper_factories if isinstance(f, Cache) and f.owner == owner)


def current_timestep(run: Run) -> Callable[[], float]:
    """The scheduler's time step of the call under way, 1000 to 0 for every family.

    The first step is before all of them: caches of diffusers ask for it what they have not kept yet.
    """
    return lambda: math.inf if run.index == 0 else float(run.timesteps[min(run.index, run.steps - 1)])


def guidance_settings(run: Run, x: Tensor, cond: Condition) -> dict[str, Any]:
    """How FasterCache finds the two halves of a guidance that come in one batch; other guidance it leaves alone."""
    batched = len(x) == 2 * len(run.seeds)
    halved = [name for name, value in cond.items() if isinstance(value, torch.Tensor) and len(value) == len(x)]
    if batched and x.ndim < 4:
        accepted = "a network of latents with height and width, or guidance outside of the batch, is accepted"
        raise RequestError("method", "faster_cache", accepted)
    convention = convention_of(run.model.denoiser)
    return {
        "is_guidance_distilled": not batched,
        "tensor_format": "BCHW" if not batched else tensor_format(x, run.model.config.get("in_channels")),
        "_unconditional_conditional_input_kwargs_identifiers": [convention.x, convention.t, *halved],
        "attention_weight_callback": _rising(run),
    }


def _rising(run: Run) -> Callable[[nn.Module], float]:
    """FasterCache's weight of the extrapolation, from 0 to 1 over the run (arXiv 2410.19355, section 3.2)."""
    return lambda _: run.index / max(1, run.steps - 1)
