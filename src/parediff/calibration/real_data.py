"""Forward-noised real images (what training sees; PTQ4DM, arXiv 2211.15736, table 2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from parediff.calibration.base import CalibrationSource
from parediff.errors import RequestError
from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.validation import require


@dataclass(frozen=True)
class RealData(CalibrationSource):
    """x_t = sqrt(abar) x0 + sqrt(1 - abar) eps of `count` training images at `steps` evenly spaced sampler steps.

    Image i's noise depends on seed `first_seed + i`. Labels go along where the network takes classes.
    """

    first_seed: int
    count: int
    batch_size: int
    steps: int
    data: Any

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.first_seed >= 0, "first_seed", self.first_seed, "0 or more")
        for key in ("count", "batch_size", "steps"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "1 or more")

    @property
    def seeds(self) -> range:
        return range(self.first_seed, self.first_seed + self.count)

    def record(self, model: DiffusionModel, sampler: Sampler) -> Iterator[Call]:
        self._check(model)
        scheduler = sampler.scheduler_for(model.pipeline)
        scheduler.set_timesteps(sampler.steps, device=model.device)
        positions = torch.linspace(0, len(scheduler.timesteps) - 1, min(self.steps, sampler.steps)).round().long()
        for start in range(0, self.count, self.batch_size):
            chosen = range(start, min(self.count, start + self.batch_size))
            images, labels = self._images(chosen)
            for step in positions.tolist():
                yield self._call(model, scheduler, images, labels, chosen, step)

    def _images(self, chosen: range) -> tuple[Tensor, Tensor]:
        train = self.data.train
        pairs = [train[(self.first_seed + index) % len(train)] for index in chosen]
        return torch.stack([image for image, _ in pairs]), torch.tensor([int(label) for _, label in pairs])

    def _call(
        self, model: DiffusionModel, scheduler: Any, images: Tensor, labels: Tensor, chosen: range, step: int
    ) -> Call:
        t = scheduler.timesteps[step].expand(len(images))
        noise = torch.stack([_noise(images.shape[1:], self.first_seed + i, step) for i in chosen])
        noisy = scheduler.add_noise(images.to(model.device), noise.to(model.device), t)
        noisy = scheduler.scale_model_input(noisy, scheduler.timesteps[step])
        cond = {"class_labels": labels.to(model.device)} if model.conditioning == "class" else {}
        return Call(noisy.to(model.dtype), t, cond, step)

    def _check(self, model: DiffusionModel) -> None:
        if model.conditioning == "text" or tuple(self.data.image_shape) != model.sample_shape:
            raise RequestError(
                "calibration",
                "real_data",
                f"a model of {self.data.image_shape} images without prompts",
            )
        if len(self.data.train) < self.count:
            raise RequestError("calibration.count", self.count, f"at most the {len(self.data.train)} training images")


def _noise(shape: torch.Size, seed: int, step: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed * 10_007 + step))
