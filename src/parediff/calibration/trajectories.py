"""What the sources that follow the model's own trajectories share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor

from parediff.calibration.base import CallSource
from parediff.models.diffusion.door import Call, Visit, recording
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.sampling.workload import Workload
from parediff.validation import Count, FirstSeed, Range, require


@dataclass(frozen=True)
class Trajectories(CallSource, ABC):
    """`count` images drawn by the model from `first_seed` on, `batch_size` at a time; some of their calls are kept.

    With classifier-free guidance a call holds both branches of every image, so both are kept. `conditions` are as of a
    workload. `sampler_steps`: drawn in so many steps, where that is not how the compressed model will be sampled.
    """

    first_seed: FirstSeed
    count: Annotated[Count, "trajectories"]
    batch_size: Annotated[Count, "trajectories at a time"]
    conditions: Annotated[tuple[int | str, ...] | str | None, "class labels or prompts, as of the workload"] = field(
        default=None, kw_only=True
    )
    sampler_steps: Annotated[int, Range(1, 10_000)] | None = field(default=None, kw_only=True)

    @property
    def seeds(self) -> range:
        return range(self.first_seed, self.first_seed + self.count)

    def parts(self, model: DiffusionModel, sampler: Sampler) -> Iterator[Callable[[], Iterator[Call]]]:
        sampler = sampler if self.sampler_steps is None else replace(sampler, steps=self.sampler_steps)
        for seeds, given in self._workload.batches():
            yield partial(self._batch, model, sampler, seeds, given)

    def _batch(
        self, model: DiffusionModel, sampler: Sampler, seeds: tuple[int, ...], given: tuple[Any, ...] | None
    ) -> Iterator[Call]:
        with recording(model) as recorded:
            model.generate(seeds, given, sampler)
        steps = sorted({call.step for call in recorded})
        yield from self.kept(recorded, seeds, steps, model)

    def walk(self, model: DiffusionModel, sampler: Sampler, visit: Visit) -> int:
        places = model.places(sampler)
        rows = 0

        def predict(call: Call) -> Tensor:
            nonlocal rows
            rows += len(call.x)
            size = self.batch_size * len(call.x) // self.count
            parts = [call.rows(slice(first, first + size)) for first in range(0, len(call.x), size)]
            return torch.cat(list(visit(places[float(call.t[0])], parts)))

        seeds, given = next(replace(self._workload, batch_size=self.count).batches())
        model.follow(seeds, given, sampler, predict)
        return rows

    def drawn(self, model: DiffusionModel, sampler: Sampler, images: int) -> Tensor:
        require(images <= self.count, "calibration.count", self.count, f"at least {images}, which a method draws,")
        batches = replace(self._workload, count=images, batch_size=min(images, self.batch_size)).batches()
        return torch.cat([model.generate(seeds, given, sampler) for seeds, given in batches])

    @property
    def _workload(self) -> Workload:
        return Workload(self.first_seed, self.count, self.batch_size, conditions=self.conditions)

    @abstractmethod
    def kept(
        self, recorded: list[Call], seeds: Sequence[int], steps: list[int], model: DiffusionModel
    ) -> Iterator[Call]:
        """What to keep of one batch of trajectories; `steps` are the executed ones, the noisiest first."""


def evenly(steps: list[int], wanted: int) -> set[int]:
    """`wanted` of the executed steps, evenly spaced from the first; all where there are fewer."""
    stride = max(1.0, len(steps) / wanted)
    return {steps[int(i * stride)] for i in range(min(wanted, len(steps)))}


def of_images(call: Call, images: int, chosen: list[int]) -> Call:
    """The call for some of its `images` images, in every branch."""
    return call.rows(torch.tensor([branch * images + row for branch in range(len(call.x) // images) for row in chosen]))
