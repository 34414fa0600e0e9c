"""Where the time step enters a denoiser: the call's own argument, told to whoever listens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from parediff.models.diffusion.convention import convention_of

LISTENERS = "time_listeners"
WIDTH = 256
"""Channels of DiT's sinusoidal embedding, where a network does not say."""


def tell_time(denoiser: nn.Module, t: Tensor) -> None:
    """`listener.enter(t)` for the listeners of a denoiser, as a call of it with time steps t [B] begins."""
    for listener in denoiser.__dict__.get(LISTENERS, ()):
        listener.enter(t)


def announce_time(denoiser: nn.Module, listener: Any) -> None:
    """Have every call of the denoiser, through its door or past it, tell `listener` its time step."""
    if LISTENERS not in denoiser.__dict__:
        denoiser.__dict__[LISTENERS] = []
        denoiser.register_forward_pre_hook(_before, with_kwargs=True)
    denoiser.__dict__[LISTENERS].append(listener)  # no child here: a listener that is a module has its own place


def _before(denoiser: nn.Module, args: Any, kwargs: Any) -> None:
    convention = convention_of(denoiser)
    bound = convention.signature.bind(*args, **kwargs).arguments
    tell_time(denoiser, torch.as_tensor(bound[convention.t]))


def time_width(denoiser: Any) -> int:
    """Channels of the sinusoidal embedding: a UNet's base channels, a transformer's embedding channels."""
    found = (m for m in denoiser.modules() if type(m).__name__ in ("Timesteps", "GaussianFourierProjection"))
    channels = next((module.num_channels for module in found if hasattr(module, "num_channels")), None)
    if channels is None and "block_out_channels" in denoiser.config:
        channels = denoiser.config.block_out_channels[0]
    return int(WIDTH if channels is None else channels)
