"""One step towards the image and, with noise that is known, back again (QNCD, 3.3).

At the denoiser's door x is variance preserving whatever the scheduler's own space is: x = alpha x0 + sigma eps. So
the step is taken in closed form (DDIM's, without noise of its own), and the sampler's history and draws stay untouched.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from parediff.models.diffusion.door import Run
from parediff.reuse.prediction import alpha_sigma

SALT = 0x9E3779B97F4A7C15
"""Odd, so that seeds map one to one to seeds of other noise than the sampler's."""


def signal_levels(run: Run, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """alpha at t [B] and where the next call of this run will be (1 after its last), each [B, 1, 1, 1]."""
    now = alpha_sigma(run.scheduler, t, x)[0]
    if run.index + 1 >= run.steps:
        return now, torch.ones_like(now)
    following = run.timesteps[run.index + 1].expand(len(x))
    return now, alpha_sigma(run.scheduler, following, x)[0]


def falls(levels: tuple[Tensor, Tensor]) -> bool:
    """Whether this step takes noise away; intermediate stages of higher-order solvers do not."""
    now, following = levels
    return bool((following > now * (1 + 1e-6)).all())


def stepped(x: Tensor, noise: Tensor, levels: tuple[Tensor, Tensor], reach: float | None) -> Tensor:
    """x_prev = alpha_prev x0 + sigma_prev eps, x0 = (x - sigma eps) / alpha clipped to +-reach where there is one."""
    alpha, alpha_prev = levels
    image = (x - (1 - alpha.square()).clamp_min(0).sqrt() * noise) / alpha
    if reach is not None:
        image = image.clamp(-reach, reach)
    return alpha_prev * image + (1 - alpha_prev.square()).clamp_min(0).sqrt() * noise


def renoised(x_prev: Tensor, noise: Tensor, levels: tuple[Tensor, Tensor]) -> Tensor:
    """x^ = sqrt(a_t / a_prev) x_prev + sqrt(1 - a_t / a_prev) z, a = alpha^2: forward diffusion back to time t."""
    share = (levels[0] / levels[1]).square()
    return share.sqrt() * x_prev + (1 - share).clamp_min(0).sqrt() * noise


def clip_reach(scheduler: Any) -> float | None:
    """How far the scheduler lets a predicted image go; None where it does not clip."""
    if "clip_sample" not in inspect.signature(type(scheduler).__init__).parameters:
        return None
    return float(scheduler.config.get("clip_sample_range", 1.0)) if scheduler.config.get("clip_sample") else None


class ProbeNoise:
    """Known noise that depends on the images' seeds and on nothing else; the sampler's own draws stay what they are."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator("cpu").manual_seed((seed * SALT + 1) % 2**64) for seed in seeds]

    def draw(self, x: Tensor) -> Tensor:
        """z like x: one draw for each image, repeated for the branches of guidance that x holds one after another."""
        rows = [torch.randn(x.shape[1:], generator=generator) for generator in self._generators]
        branches = len(x) // len(rows)
        return torch.stack(rows).repeat(branches, *[1] * (x.ndim - 1)).to(x)
