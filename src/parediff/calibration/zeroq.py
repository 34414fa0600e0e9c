"""Images whose own statistics are those that BatchNorm stored (ZeroQ, arXiv 2001.00281)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch

from parediff.calibration.images import ImageSource, Labelled, Studio
from parediff.models.classifiers.model import ClassifierModel
from parediff.models.classifiers.probes import require_norms
from parediff.training.image_fitting import MatchEachImage, PixelFitting
from parediff.validation import Count, NonNegative, Positive, Whole


@dataclass(frozen=True)
class ZeroQ(ImageSource):
    """Pixels by Adam for `steps` steps a batch; the rate falls tenfold after `patience` steps without progress.

    No class is asked for: the labels are what the classifier sees in the result.
    """

    steps: Count
    learning_rate: Annotated[Positive, "of the pixels"]
    patience: Annotated[Whole, "steps without a better loss before the rate falls"]
    least_rate: Annotated[NonNegative, "below which the rate never falls"]

    def check(self, teacher: ClassifierModel) -> None:
        require_norms(teacher.denoiser, "zeroq")

    def make(self, studio: Studio) -> Iterator[Labelled]:
        start = self.first_seed
        for place, size in enumerate(self.sizes):
            seeds = range(start, start + size)
            draws = [torch.randn(studio.shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
            module = PixelFitting(
                studio.teacher.denoiser,
                MatchEachImage(),
                torch.stack(draws),
                learning_rate=self.learning_rate,
                patience=self.patience,
                least_rate=self.least_rate,
                seed=start,
            )
            studio.fit(f"zeroq-{place}", module, self.steps)
            yield studio.named(studio.images(module.result()))
            start += size
