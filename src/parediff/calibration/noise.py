"""Gaussian noise: what any data-free source has to beat."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from parediff.calibration.images import ImageSource, Labelled, Studio


@dataclass(frozen=True)
class Noise(ImageSource):
    """N(0, 1) in the space in which the classifier's input has mean 0 and variance 1; image i has a seed of its own."""

    def make(self, studio: Studio) -> Iterator[Labelled]:
        start = self.first_seed
        for size in self.sizes:
            seeds = range(start, start + size)
            draws = [torch.randn(studio.shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
            yield studio.named(studio.images(torch.stack(draws)))
            start += size
