"""Learning to denoise: the training of DDPM (Ho et al., 2020), with the targets and weights that followed."""

from __future__ import annotations

from typing import Annotated, Any, cast

import torch
from torch import Tensor, nn

from parediff.errors import RequestError
from parediff.models.diffusion.conditioning import class_rows
from parediff.training.base import Learner
from parediff.validation import Below1, Positive, Whole, require


class Denoising(Learner):
    """Mean squared error of what the denoiser predicts (eps, v or x0) at x_t = sqrt(abar) x0 + sqrt(1 - abar) eps.

    `scheduler` is a diffusers noise scheduler: it holds abar and the prediction type. Batches are (images NCHW in
    [-1, 1], labels); the labels reach a network that embeds classes. A share `label_dropout` of them is replaced by
    `null_class`, so that it also learns the images of no class in particular (Ho and Salimans, 2022).
    """

    def __init__(
        self,
        network: nn.Module,
        scheduler: Any,
        *,
        snr_gamma: Annotated[Positive, "min-SNR's gamma; null: the plain loss"] | None,
        label_dropout: Below1,
        null_class: Whole | None,
        **settings: Any,
    ) -> None:
        super().__init__(network, **settings)
        rows = class_rows(cast(Any, network).config)
        check_label_dropout(label_dropout, null_class, rows)
        self.scheduler, self.snr_gamma = scheduler, snr_gamma
        self.conditional = rows is not None
        self.label_dropout, self.null_class = label_dropout, null_class

    def loss(self, batch: tuple[Tensor, Tensor], generator: torch.Generator) -> Tensor:
        images, labels = batch
        t = spread_timesteps(len(images), self.scheduler.config.num_train_timesteps, generator).to(images.device)
        noise = torch.randn(images.shape, generator=generator).to(images)
        noisy = self.scheduler.add_noise(images, noise, t)
        cond = {"class_labels": self.dropped(labels, generator)} if self.conditional else {}
        predicted = self.network(noisy, t, return_dict=False, **cond)[0]
        errors = self.errors(predicted, self.target(images, noise, t)).flatten(1).mean(1)
        return (self.weights(t) * errors).mean()

    def dropped(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """[B]; each label is kept or gives way to the null class."""
        if self.null_class is None or self.label_dropout == 0:
            return labels
        drop = torch.rand(len(labels), generator=generator).to(labels.device) < self.label_dropout
        return labels.masked_fill(drop, self.null_class)

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


def check_label_dropout(share: float, null_class: int | None, rows: int | None) -> None:
    """Raise unless labels can be dropped at this share: `rows` classes are embedded, one of them means none."""
    require(0 <= share < 1, "label_dropout", share, "a share in [0, 1)")
    if share == 0:
        return
    if rows is None:
        raise RequestError("label_dropout", share, "0 for a network without classes")
    accepted = f"a label from 0 to {rows - 1} that means no class"
    require(null_class is not None and 0 <= null_class < rows, "null_class", null_class, accepted)


def spread_timesteps(count: int, total: int, generator: torch.Generator) -> Tensor:
    """[count] timesteps in [0, total): an even grid under one random shift, so every batch covers all noise levels."""
    shift = torch.rand((), generator=generator)
    return (((shift + torch.arange(count) / count) % 1.0) * total).long().clamp(max=total - 1)
