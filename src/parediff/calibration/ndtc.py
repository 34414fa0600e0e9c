"""Normally distributed time steps, one for each trajectory (PTQ4DM, arXiv 2211.15736, section 3.3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from parediff.calibration.trajectories import Trajectories, of_images
from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.validation import NonNegative, Share


@dataclass(frozen=True)
class NDTC(Trajectories):
    """Of each trajectory the one call whose index k ~ Normal(mean T, (std T)^2), floored and clamped to 0..T-1.

    T is the number of executed steps and k = 0 the last of them, nearest to the image. An image's k depends on its
    seed only. The paper's text and code disagree on mean and spread; 0.4 and 0.4 are the released script's.
    """

    mean: Share
    std: Annotated[NonNegative, "of the step, a share of the number of steps"]

    def draw(self, seeds: Sequence[int], total: int) -> Tensor:
        """k [seeds], not yet floored and clamped."""
        normal = torch.cat([torch.randn(1, generator=torch.Generator().manual_seed(_own(seed))) for seed in seeds])
        return (self.mean + self.std * normal) * total

    def kept(
        self, recorded: list[Call], seeds: Sequence[int], steps: list[int], model: DiffusionModel
    ) -> Iterator[Call]:
        wanted = clamped(self.draw(seeds, len(steps)), len(steps)).tolist()
        for call in recorded:
            index = len(steps) - 1 - steps.index(call.step)
            chosen = [row for row, k in enumerate(wanted) if k == index]
            if chosen:
                yield of_images(call, len(seeds), chosen)


def clamped(draws: Tensor, total: int) -> Tensor:
    """Whole numbers in 0..total-1."""
    return draws.floor().clamp(0, total - 1).long()


def _own(seed: int) -> int:
    """A seed for the time step that is not the seed of the image's noise."""
    return seed * 2_654_435_761 % (1 << 63) + 1
