"""What a compressed network is trained for: the labels or the noise, and the uncompressed network's own output."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from parediff.training.classification import shifted
from parediff.training.denoising import spread_timesteps

Batch = tuple[Tensor, Tensor]
"""(images NCHW in [-1, 1], labels)."""


class Objective(ABC):
    """A loss of a network on a batch, beside a frozen teacher whose term weighs `distillation`."""

    def __init__(self, teacher: nn.Module, *, distillation: float) -> None:
        self.teacher, self.distillation = teacher.eval().requires_grad_(False), distillation

    @abstractmethod
    def loss(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        """The scalar to lower."""

    @abstractmethod
    def judge(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """What to log of a held-out batch."""

    @abstractmethod
    def inputs(self, batch: Batch) -> Tensor:
        """What the network takes of a batch, for networks that take nothing else."""


class Classify(Objective):
    """CE(y, logits) + distillation CE(softmax teacher, logits), temperature 1; images move by up to `shift` pixels."""

    def __init__(self, teacher: nn.Module, *, distillation: float, shift: int) -> None:
        super().__init__(teacher, distillation=distillation)
        self.shift = shift

    def loss(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        images, labels = shifted(batch[0], self.shift, generator), batch[1]
        logits = network(images)
        loss = F.cross_entropy(logits, labels)
        if self.distillation == 0:
            return loss
        with torch.no_grad():
            soft = self.teacher(images).softmax(1)
        return loss + self.distillation * F.cross_entropy(logits, soft)

    def judge(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        images, labels = batch
        logits = network(images)
        return {"loss": F.cross_entropy(logits, labels), "top1": 100 * (logits.argmax(1) == labels).float().mean()}

    def inputs(self, batch: Batch) -> Tensor:
        return batch[0]


class Denoise(Objective):
    """(1 - distillation) |eps - eps_hat|^2 + distillation |teacher - eps_hat|^2 at x_t of real images, means over all.

    With distillation 1 the target is the teacher alone, which has no noise of its own. `scheduler` gives abar and the
    prediction type; `conditional` networks take the labels.
    """

    def __init__(self, teacher: nn.Module, scheduler: Any, *, distillation: float, conditional: bool) -> None:
        super().__init__(teacher, distillation=distillation)
        self.scheduler, self.conditional = scheduler, conditional

    def loss(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        noisy, noise, t, cond = self._noised(batch, generator)
        predicted = network(noisy, t, return_dict=False, **cond)[0]
        loss = (1 - self.distillation) * F.mse_loss(predicted, self._target(batch[0], noise, t))
        if self.distillation == 0:
            return loss
        with torch.no_grad():
            wanted = self.teacher(noisy, t, return_dict=False, **cond)[0]
        return loss + self.distillation * F.mse_loss(predicted, wanted)

    def judge(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        noisy, noise, t, cond = self._noised(batch, generator)
        predicted = network(noisy, t, return_dict=False, **cond)[0]
        wanted = self.teacher(noisy, t, return_dict=False, **cond)[0]
        return {
            "loss": F.mse_loss(predicted, self._target(batch[0], noise, t)),
            "to_teacher": F.mse_loss(predicted, wanted),
        }

    def inputs(self, batch: Batch) -> Tensor:
        raise TypeError("a denoiser takes more than images; statistics of BatchNorm cannot be taken from images alone")

    def _noised(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        images, labels = batch
        t = spread_timesteps(len(images), self.scheduler.config.num_train_timesteps, generator).to(images.device)
        noise = torch.randn(images.shape, generator=generator).to(images)
        cond = {"class_labels": labels} if self.conditional else {}
        return self.scheduler.add_noise(images, noise, t), noise, t, cond

    def _target(self, images: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        kind = self.scheduler.config.prediction_type
        if kind == "v_prediction":
            return self.scheduler.get_velocity(images, noise, t)
        return images if kind == "sample" else noise
