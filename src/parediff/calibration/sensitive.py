"""Calls at which a denoiser is sensitive to its weights, among others at random (data-free-diffusion.md, section 4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from parediff.calibration.trajectories import Trajectories, evenly, of_images
from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.validation import Count, Positive, Range


@dataclass(frozen=True)
class Sensitive(Trajectories):
    """Of `steps` evenly spaced steps a share of the rows: half of it those whose output moves most, half at random.

    What moves them is Gaussian noise of `weight_sigma` rms on every weight of a copy, the same for all calls. Images
    are ranked within a call, so that every kept step keeps its part; guidance branches of an image stay together. RIS's
    criterion as a selector: our own, not a published method.
    """

    steps: Count
    share: Annotated[float, Range(above=0, most=1)]
    weight_sigma: Positive

    def kept(
        self, recorded: list[Call], seeds: Sequence[int], steps: list[int], model: DiffusionModel
    ) -> Iterator[Call]:
        wanted, shaken = evenly(steps, self.steps), self._shaken(model)
        generator = torch.Generator().manual_seed(seeds[0] + 1)
        for call in recorded:
            if call.step in wanted:
                moved = sensitivity(model, shaken, call).reshape(-1, len(seeds)).sum(0)
                yield of_images(call, len(seeds), chosen(moved, self.share, generator))

    @torch.no_grad()
    def _shaken(self, model: DiffusionModel) -> DiffusionModel:
        twin, generator = model.copy(), torch.Generator().manual_seed(self.first_seed)
        for parameter in twin.denoiser.parameters():
            if parameter.ndim > 1:
                noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                parameter.add_(self.weight_sigma * parameter.square().mean().sqrt() * noise)
        return twin


@torch.no_grad()
def sensitivity(model: DiffusionModel, shaken: DiffusionModel, call: Call) -> Tensor:
    """Mean squared change of the output of every row [rows]."""
    plain, moved = (one.predict(call.x, call.t, call.cond) for one in (model, shaken))
    return (plain - moved).square().flatten(1).mean(1)


def chosen(moved: Tensor, share: float, generator: torch.Generator) -> list[int]:
    """Rows to keep, in order: the first half of round(share n), at least one, by size, the rest of it at random."""
    count = max(1, round(share * len(moved)))
    order = moved.cpu().argsort(descending=True, stable=True).tolist()
    top, rest = order[: (count + 1) // 2], order[(count + 1) // 2 :]
    drawn = torch.randperm(len(rest), generator=generator)[: count - len(top)].tolist()
    return sorted(top + [rest[place] for place in drawn])
