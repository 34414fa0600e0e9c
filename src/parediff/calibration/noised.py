"""Images with noise as calls of a denoiser: x_t = sqrt(abar) x0 + sqrt(1 - abar) eps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler


def timed(model: DiffusionModel, sampler: Sampler, steps: int) -> tuple[Any, list[int]]:
    """(the sampler's scheduler at its time steps, at most `steps` evenly spaced positions among them)."""
    scheduler = sampler.scheduler_for(model.pipeline)
    scheduler.set_timesteps(sampler.steps, device=model.device)
    positions = torch.linspace(0, len(scheduler.timesteps) - 1, min(steps, sampler.steps)).round().long()
    return scheduler, positions.tolist()


def noised(
    model: DiffusionModel, scheduler: Any, images: Tensor, labels: Tensor, seeds: Sequence[int], step: int
) -> Call:
    """Images x0 in [-1, 1] at one position of the scheduler; image i's noise depends on its seed, and the step.

    Labels go along where the network takes classes.
    """
    t = scheduler.timesteps[step].expand(len(images))
    noise = torch.stack([_noise(images.shape[1:], seed, step) for seed in seeds])
    noisy = scheduler.add_noise(images.to(model.device), noise.to(model.device), t)
    noisy = scheduler.scale_model_input(noisy, scheduler.timesteps[step])
    cond = {"class_labels": labels.to(model.device)} if model.conditioning == "class" else {}
    return Call(noisy.to(model.dtype), t, cond, step)


def _noise(shape: torch.Size, seed: int, step: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed * 10_007 + step))
