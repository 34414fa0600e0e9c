"""Images that differ within a class (IntraQ, arXiv 2111.09136)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from parediff.calibration.images import ImageSource, Labelled, Studio, require_several
from parediff.models.classifiers.model import ClassifierModel
from parediff.models.classifiers.probes import look, require_norms
from parediff.training.base import generator_of
from parediff.training.image_fitting import PixelFitting
from parediff.training.intra_class import IntraClass
from parediff.validation import Count, NonNegative, Positive, Range, Share, Whole, require


@dataclass(frozen=True)
class IntraQ(ImageSource):
    """Pixels by Adam, batch after batch; each batch's features keep a margin from the class means of those before.

    `sure_from`: half of the images aim at a confidence drawn from there to 1, the others at 1.
    """

    steps: Count
    learning_rate: Annotated[Positive, "of the pixels"]
    patience: Annotated[Whole, "steps without a better loss before the rate falls"]
    least_rate: Annotated[NonNegative, "below which the rate never falls"]
    sure_from: Share
    nearest: Annotated[float, Range(0, 2), "cosine distance to the class's centre, at least"]
    farthest: Annotated[float, Range(0, 2), "cosine distance to the class's centre, at most"]
    reinforced: Share

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.nearest < self.farthest, "nearest", self.nearest, f"a distance below farthest ({self.farthest})")
        require_several(self)

    def check(self, teacher: ClassifierModel) -> None:
        require_norms(teacher.denoiser, "intraq")

    def make(self, studio: Studio) -> Iterator[Labelled]:
        start, centres = self.first_seed, Centres(studio.classes)
        for place, size in enumerate(self.sizes):
            generator = generator_of(start, -1)
            labels = torch.randint(studio.classes, (size,), generator=generator)
            soft = self.sure_from + (1 - self.sure_from) * torch.rand(size, generator=generator)
            confidence = torch.where(torch.arange(size) % 2 == 0, soft, torch.ones(size))
            loss = IntraClass(labels, confidence, centres.means(), self.nearest, self.farthest, self.reinforced)
            module = PixelFitting(
                studio.teacher.denoiser,
                loss,
                torch.randn(size, *studio.shape, generator=generator),
                learning_rate=self.learning_rate,
                patience=self.patience,
                least_rate=self.least_rate,
                seed=start,
            )
            studio.fit(f"intraq-{place}", module, self.steps)
            images = studio.images(module.result())
            centres.add(look(studio.teacher.denoiser, images).features, labels)
            yield images, labels
            start += size


class Centres:
    """Mean features of each class over the batches so far."""

    def __init__(self, classes: int) -> None:
        self.counts = torch.zeros(classes)
        self.sums: Tensor | None = None

    @torch.no_grad()
    def add(self, features: Tensor, labels: Tensor) -> None:
        """features [N, any], labels [N]."""
        if self.sums is None:
            self.sums = torch.zeros(len(self.counts), features.shape[1])
        self.sums.index_add_(0, labels, features.detach().cpu())
        self.counts.index_add_(0, labels, torch.ones(len(labels)))

    def means(self) -> Tensor | None:
        """[classes, features]; None before the first batch, the mean of all for a class not seen yet."""
        if self.sums is None:
            return None
        overall = self.sums.sum(0) / self.counts.sum()
        own = self.sums / self.counts.clamp_min(1)[:, None]
        return torch.where(self.counts[:, None] > 0, own, overall)
