"""Images and calls from a workload, both lazy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from parediff.models.diffusion.door import Call, observing, recording
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.models.finite import NotFinite, first_layer, is_finite
from parediff.sampling.batch import Batch, frames, to_uint8
from parediff.sampling.blocks import Blocks
from parediff.sampling.workload import Workload


def images(
    model: DiffusionModel, workload: Workload, sampler: Sampler, blocks: Blocks | None = None
) -> Iterator[Batch]:
    """The workload's images, batch by batch; row i is seed `first_seed + i`. NotFinite where one has no numbers.

    `blocks` keeps drawn batches, and gives those that an earlier process has drawn.
    """
    for seeds, given in workload.batches():
        conditions = given if given is not None else model.conditions_for(seeds)
        first = seeds[0] - workload.first_seed
        rows, block = range(first, first + len(seeds)), workload.block_of(seeds[0])
        drawn = None if blocks is None else blocks.kept(rows)
        if drawn is None:
            drawn = to_uint8(finite_images(model, seeds, conditions, sampler))
            if blocks is not None:
                blocks.keep(rows, drawn)
        yield Batch(rows, drawn, conditions, block, pictures=frames(drawn))


def calls(model: DiffusionModel, workload: Workload, sampler: Sampler) -> Iterator[Call]:
    """Every call that reaches the network while the workload is sampled."""
    for seeds, given in workload.batches():
        with recording(model) as recorded:
            model.generate(seeds, given if given is not None else model.conditions_for(seeds), sampler)
        yield from recorded


def finite_images(model: DiffusionModel, seeds: tuple[int, ...], conditions: Any, sampler: Sampler) -> Tensor:
    """Images in [0, 1], NCHW; where a call of the network or an image has NaN or infinity, NotFinite says where first.

    Calls are looked at as they come, on the network's device; only after a failure are they run again, layer by layer.
    """
    fine: list[Tensor] = []
    with observing(model, lambda _, output: fine.append(torch.isfinite(output).all())):
        drawn = model.generate(seeds, conditions, sampler)
    if is_finite(drawn) and all(bool(one) for one in fine):
        return drawn
    raise NotFinite(_found(model, seeds, conditions, sampler))


def _found(model: DiffusionModel, seeds: tuple[int, ...], conditions: Any, sampler: Sampler) -> str:
    """The step and the layer in which the same images go wrong first."""
    layers: list[str] = []
    steps: list[tuple[int, float]] = []

    def look(call: Call, output: Tensor) -> None:
        if not steps and not (is_finite(output) and is_finite(call.x)):
            steps.append((call.step, float(call.t[0])))

    with first_layer(model.denoiser, layers.append), observing(model, look):
        model.generate(seeds, conditions, sampler)
    where = f"images {seeds[0]} to {seeds[-1]} of {model.name} have NaN or infinite values"
    if not steps:
        return f"{where}: the network's outputs are finite, what follows them is not"
    step, t = steps[0]
    layer = f"layer {layers[0]}" if layers else "its input, which the sampler made"
    return f"{where}: first at step {step} (t = {t:g}), in {layer}"
