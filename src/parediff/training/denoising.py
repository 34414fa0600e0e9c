"""Learning to denoise: the training of DDPM (Ho et al., 2020), with the targets and weights that followed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from parediff.errors import RequestError
from parediff.training.base import Learner


class Denoising(Learner):
    """Mean squared error of what the denoiser predicts (eps, v or x0) at x_t = sqrt(abar) x0 + sqrt(1 - abar) eps.

    `scheduler` is a diffusers noise scheduler: it holds abar and the prediction type. Batches are (images NCHW in
    [-1, 1], labels); the labels reach the network when it was built with `num_class_embeds`.
    """

    def __init__(self, network: nn.Module, scheduler: Any, *, snr_gamma: float | None, **settings: Any) -> None:
        super().__init__(network, **settings)
        if snr_gamma is not None and snr_gamma <= 0:
            raise RequestError("snr_gamma", snr_gamma, "a positive number, or null for the plain loss")
        self.scheduler, self.snr_gamma = scheduler, snr_gamma
        self.conditional = getattr(network.config, "num_class_embeds", None) is not None

    def loss(self, batch: tuple[Tensor, Tensor], generator: torch.Generator) -> Tensor:
        images, labels = batch
        t = spread_timesteps(len(images), self.scheduler.config.num_train_timesteps, generator).to(images.device)
        noise = torch.randn(images.shape, generator=generator).to(images)
        noisy = self.scheduler.add_noise(images, noise, t)
        cond = {"class_labels": labels} if self.conditional else {}
        predicted = self.network(noisy, t, return_dict=False, **cond)[0]
        errors = self.errors(predicted, self.target(images, noise, t)).flatten(1).mean(1)
        return (self.weights(t) * errors).mean()

    def errors(self, predicted: Tensor, wanted: Tensor) -> Tensor:
        """Elementwise."""
        return (predicted - wanted).square()

    def target(self, images: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        kind = self.scheduler.config.prediction_type
        if kind == "v_prediction":
            return self.scheduler.get_velocity(images, noise, t)
        return images if kind == "sample" else noise

    def weights(self, t: Tensor) -> Tensor:
        """[B]; min(SNR, gamma) on the x0 error (Hang et al., 2023, eq. 8), said in terms of the predicted quantity."""
        if self.snr_gamma is None:
            return torch.ones(t.shape, device=t.device)
        kept = self.scheduler.alphas_cumprod.to(t.device)[t]
        snr = kept / (1 - kept)
        per_unit = {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones_like(snr)}
        return snr.clamp(max=self.snr_gamma) / per_unit[self.scheduler.config.prediction_type]


def spread_timesteps(count: int, total: int, generator: torch.Generator) -> Tensor:
    """[count] timesteps in [0, total): an even grid under one random shift, so every batch covers all noise levels."""
    shift = torch.rand((), generator=generator)
    return (((shift + torch.arange(count) / count) % 1.0) * total).long().clamp(max=total - 1)
