"""Images and calls from a workload, both lazy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from parediff.models.diffusion.door import Call, recording
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.sampling.workload import Workload


@dataclass(frozen=True)
class Batch:
    """Some images, uint8 NCHW (videos NFCHW), with the seeds and conditions that made them and their seed block."""

    seeds: tuple[int, ...]
    conditions: tuple[Any, ...] | None
    images: Tensor
    block: int


def to_uint8(images: Tensor) -> Tensor:
    """[0, 1] to 0..255, rounded to nearest: what a PNG of the image would hold."""
    return (images.clamp(0, 1) * 255).round().byte()


def frames(images: Tensor) -> Tensor:
    """Images as they are; of videos [B, F, C, H, W] every frame, [B F, C, H, W]."""
    return images.flatten(0, 1) if images.ndim == 5 else images


def images(model: DiffusionModel, workload: Workload, sampler: Sampler) -> Iterator[Batch]:
    """The workload's images, batch by batch."""
    for seeds, given in workload.batches():
        conditions = given if given is not None else model.conditions_for(seeds)
        made = model.generate(seeds, conditions, sampler)
        yield Batch(seeds, conditions, to_uint8(made), workload.block_of(seeds[0]))


def calls(model: DiffusionModel, workload: Workload, sampler: Sampler) -> Iterator[Call]:
    """Every call that reaches the network while the workload is sampled."""
    for seeds, given in workload.batches():
        with recording(model) as recorded:
            model.generate(seeds, given if given is not None else model.conditions_for(seeds), sampler)
        yield from recorded
