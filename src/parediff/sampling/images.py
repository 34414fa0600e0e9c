"""Images and calls from a workload, both lazy."""

from __future__ import annotations

from collections.abc import Iterator

from parediff.models.diffusion.door import Call, recording
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.sampling.batch import Batch, frames, to_uint8
from parediff.sampling.workload import Workload


def images(model: DiffusionModel, workload: Workload, sampler: Sampler) -> Iterator[Batch]:
    """The workload's images, batch by batch; row i is seed `first_seed + i`."""
    for seeds, given in workload.batches():
        conditions = given if given is not None else model.conditions_for(seeds)
        drawn = to_uint8(model.generate(seeds, conditions, sampler))
        first = seeds[0] - workload.first_seed
        rows, block = range(first, first + len(seeds)), workload.block_of(seeds[0])
        yield Batch(rows, drawn, conditions, block, pictures=frames(drawn))


def calls(model: DiffusionModel, workload: Workload, sampler: Sampler) -> Iterator[Call]:
    """Every call that reaches the network while the workload is sampled."""
    for seeds, given in workload.batches():
        with recording(model) as recorded:
            model.generate(seeds, given if given is not None else model.conditions_for(seeds), sampler)
        yield from recorded
