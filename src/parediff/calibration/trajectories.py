"""What the sources that follow the model's own trajectories share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from parediff.calibration.base import CallSource
from parediff.models.diffusion.door import Call, recording
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.sampling.workload import Workload
from parediff.validation import require


@dataclass(frozen=True)
class Trajectories(CallSource, ABC):
    """`count` images drawn by the model from `first_seed` on, `batch_size` at a time; some of their calls are kept.

    With classifier-free guidance a call holds both branches of every image, so both are kept. `conditions` are as of a
    workload. `sampler_steps`: drawn in so many steps, where that is not how the compressed model will be sampled.
    """

    first_seed: int
    count: int
    batch_size: int
    conditions: tuple[int | str, ...] | str | None = field(default=None, kw_only=True)
    sampler_steps: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.first_seed >= 0, "first_seed", self.first_seed, "0 or more")
        for key in ("count", "batch_size"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "1 or more")

    @property
    def seeds(self) -> range:
        return range(self.first_seed, self.first_seed + self.count)

    def parts(self, model: DiffusionModel, sampler: Sampler) -> Iterator[Callable[[], Iterator[Call]]]:
        sampler = sampler if self.sampler_steps is None else replace(sampler, steps=self.sampler_steps)
        workload = Workload(self.first_seed, self.count, self.batch_size, conditions=self.conditions)
        for seeds, given in workload.batches():
            yield partial(self._batch, model, sampler, seeds, given)

    def _batch(
        self, model: DiffusionModel, sampler: Sampler, seeds: tuple[int, ...], given: tuple[Any, ...] | None
    ) -> Iterator[Call]:
        with recording(model) as recorded:
            model.generate(seeds, given if given is not None else model.conditions_for(seeds), sampler)
        steps = sorted({call.step for call in recorded})
        yield from self.kept(recorded, seeds, steps, model)

    @abstractmethod
    def kept(
        self, recorded: list[Call], seeds: Sequence[int], steps: list[int], model: DiffusionModel
    ) -> Iterator[Call]:
        """What to keep of one batch of trajectories; `steps` are the executed ones, the noisiest first."""


def evenly(steps: list[int], wanted: int) -> set[int]:
    """`wanted` of the executed steps, evenly spaced from the first; all where there are fewer."""
    stride = max(1.0, len(steps) / wanted)
    return {steps[int(i * stride)] for i in range(min(wanted, len(steps)))}


def rows_of(call: Call, images: int, chosen: list[int]) -> Call:
    """The call for some of its `images` images, in every branch; what has no batch dimension stays whole."""
    size = len(call.x)
    index = torch.tensor([branch * images + row for branch in range(size // images) for row in chosen])

    def rows(tensor: Tensor) -> Tensor:
        return tensor[index.to(tensor.device)]

    return Call(rows(call.x), rows(call.t), _rows(call.cond, size, rows), call.step)


def _rows(value: Any, size: int, rows: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor) and value.ndim and len(value) == size:
        return rows(value)
    if isinstance(value, list) and len(value) == size and all(isinstance(entry, Tensor) for entry in value):
        return [value[int(row)] for row in rows(torch.arange(size))]
    return {key: _rows(entry, size, rows) for key, entry in value.items()} if isinstance(value, dict) else value
