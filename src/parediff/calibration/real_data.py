"""Training images: as they are for a classifier; with noise, as training sees them, for a denoiser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from parediff.calibration.base import CallSource
from parediff.calibration.images import ImageSource, Labelled, Studio
from parediff.calibration.noised import noised, timed
from parediff.errors import RequestError
from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.validation import Count


@dataclass(frozen=True)
class RealData(ImageSource, CallSource):
    """`count` training images. For a classifier, evenly spaced in the set, from one that `first_seed` decides.

    For a denoiser x_t = sqrt(abar) x0 + sqrt(1 - abar) eps at `steps` evenly spaced sampler steps (PTQ4DM, arXiv
    2211.15736, table 2); image i's noise depends on seed `first_seed + i`, labels go along where the network takes
    classes. `data` opens the run's data when something is asked of it.
    """

    steps: Count
    data: Callable[[], Any]

    def make(self, studio: Studio) -> Iterator[Labelled]:
        train = studio.data().train
        count = min(self.count, len(train))
        first = self.first_seed % max(1, len(train) // count)
        chosen = Subset(train, [first + index * len(train) // count for index in range(count)])
        yield from DataLoader(chosen, batch_size=self.batch_size)

    def parts(self, model: DiffusionModel, sampler: Sampler) -> Iterator[Callable[[], Iterator[Call]]]:
        self._check(model)
        scheduler, positions = timed(model, sampler, self.steps)
        for start in range(0, self.count, self.batch_size):
            chosen = range(start, min(self.count, start + self.batch_size))
            yield partial(self._batch, model, scheduler, chosen, positions)

    def _batch(self, model: DiffusionModel, scheduler: Any, chosen: range, steps: list[int]) -> Iterator[Call]:
        images, labels = self._images(chosen)
        for step in steps:
            yield noised(model, scheduler, images, labels, [self.first_seed + i for i in chosen], step)

    def _images(self, chosen: range) -> tuple[Tensor, Tensor]:
        train = self.data().train
        pairs = [train[(self.first_seed + index) % len(train)] for index in chosen]
        return torch.stack([image for image, _ in pairs]), torch.tensor([int(label) for _, label in pairs])

    def _check(self, model: DiffusionModel) -> None:
        if model.conditioning == "text" or tuple(self.data().image_shape) != model.sample_shape:
            raise RequestError(
                "calibration",
                "real_data",
                f"a model of {self.data().image_shape} images without prompts",
            )
        if len(self.data().train) < self.count:
            raise RequestError("calibration.count", self.count, f"at most the {len(self.data().train)} training images")
