"""What IntraQ's pixels descend: statistics, soft confidence, and a spread within every class (arXiv 2111.09136)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from parediff.models.classifiers.networks import as_images
from parediff.models.classifiers.probes import look
from parediff.models.classifiers.statistics import variance_loss
from parediff.training.augmentations import flip, resized_crop
from parediff.training.image_fitting import ImageLoss


@dataclass(frozen=True)
class IntraClass(ImageLoss):
    """V1 + mean (p_y - tau)^2 + mean margin, on images that are cropped and mirrored in `reinforced` of the steps.

    `labels` [N], `confidence` tau [N]; `centres` [classes, features]: mean features of batches before, None at first.
    A feature's distance 1 - cos from its class's centre is to lie between `nearest` and `farthest`.
    """

    labels: Tensor
    confidence: Tensor
    centres: Tensor | None
    nearest: float
    farthest: float
    reinforced: float

    def __call__(self, teacher: nn.Module, normalised: Tensor, generator: torch.Generator) -> Tensor:
        if float(torch.rand((), generator=generator)) < self.reinforced:
            normalised = resized_crop(normalised, generator)
            normalised = flip(normalised, generator) if int(torch.randint(2, (), generator=generator)) else normalised
        seen = look(teacher, as_images(teacher, normalised))
        labels = self.labels.to(normalised.device)
        sure = seen.logits.softmax(1).gather(1, labels[:, None])[:, 0]
        loss = variance_loss(seen.norm_inputs) + (sure - self.confidence.to(sure)).square().mean()
        if self.centres is None:
            return loss
        return loss + margins(seen.features, self.centres.to(sure)[labels], self.nearest, self.farthest).mean()


def margins(features: Tensor, centres: Tensor, nearest: float, farthest: float) -> Tensor:
    """max(nearest - d, 0) + max(d - farthest, 0) per row, d = 1 - cos(feature, centre)."""
    distance = 1 - F.cosine_similarity(features, centres)
    return (nearest - distance).relu() + (distance - farthest).relu()
