"""What a network predicts, turned into the noise and back: a jump holds the noise, whatever the network predicts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from parediff.errors import RequestError

KINDS = ("epsilon", "v_prediction", "sample")
AS_IT_IS = ("epsilon", "flow")
"""Held unchanged, which makes the next step of the plain solver a longer one: the noise, and flow's velocity."""


def kind_of(scheduler: Any) -> str:
    """The scheduler's prediction type; anything but noise and velocity needs its alphas."""
    kind = scheduler.config.get("prediction_type") or "epsilon"
    if kind == "flow_prediction" or type(scheduler).__name__.startswith("FlowMatch"):
        return "flow"
    if kind not in KINDS or (kind != "epsilon" and not hasattr(scheduler, "alphas_cumprod")):
        accepted = f"a scheduler that predicts one of {', '.join(KINDS)}, with alphas"
        raise RequestError("sampler.scheduler", type(scheduler).__name__, accepted)
    return kind


def to_noise(output: Tensor, x: Tensor, t: Tensor, scheduler: Any) -> Tensor:
    """The noise that a raw output at x_t implies. Channels beyond x's (a learned variance) stay as they are.

    With alpha^2 + sigma^2 = 1: eps = alpha v + sigma x, or eps = (x - alpha x0) / sigma.
    """
    kind = kind_of(scheduler)
    if kind in AS_IT_IS:
        return output
    predicted, rest, x, channel = _channels(output, x)
    alpha, sigma = (value.to(x.dtype) for value in alpha_sigma(scheduler, t, x))
    noise = alpha * predicted + sigma * x if kind == "v_prediction" else (x - alpha * predicted) / sigma
    return torch.cat([noise, rest], dim=channel)


def from_noise(noise: Tensor, x: Tensor, t: Tensor, scheduler: Any) -> Tensor:
    """The raw output at x_t that means this noise: v = (eps - sigma x) / alpha, or x0 = (x - sigma eps) / alpha."""
    kind = kind_of(scheduler)
    if kind in AS_IT_IS:
        return noise
    predicted, rest, x, channel = _channels(noise, x)
    alpha, sigma = (value.to(x.dtype) for value in alpha_sigma(scheduler, t, x))
    output = predicted - sigma * x if kind == "v_prediction" else x - sigma * predicted
    return torch.cat([output / alpha, rest], dim=channel)


def _channels(output: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
    """(what is predicted of x, a learned variance or nothing, x without further inputs, the dimension of channels)."""
    channel = next((i for i in range(1, x.ndim) if x.shape[i] != output.shape[i]), 1)
    width = min(x.shape[channel], output.shape[channel])
    rest = output.narrow(channel, width, output.shape[channel] - width)
    return output.narrow(channel, 0, width), rest, x.narrow(channel, 0, width), channel


def alpha_sigma(scheduler: Any, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """alpha = sqrt(alpha-bar_t) and sigma, [B, 1, 1, 1] each.

    Between training steps sigma / alpha is interpolated in the logarithm. A continuous t is log(sigma / alpha) / 4.
    """
    if scheduler.config.get("timestep_type") == "continuous":
        ratio = (4 * t.to(x.device, torch.float64)).exp().view(-1, *[1] * (x.ndim - 1))
        alpha = (1 + ratio.square()).rsqrt()
        return alpha, ratio * alpha
    alphas = scheduler.alphas_cumprod.to(x.device, torch.float64).clamp(min=1e-12)
    log_ratio = ((1 - alphas) / alphas).log() / 2
    t = t.to(x.device, torch.float64).clamp(0, len(alphas) - 1)
    low, part = t.floor().long(), t - t.floor()
    high = (low + 1).clamp(max=len(alphas) - 1)
    ratio = torch.lerp(log_ratio[low], log_ratio[high], part).exp().view(-1, *[1] * (x.ndim - 1))
    alpha = (1 + ratio.square()).rsqrt()
    return alpha, ratio * alpha
