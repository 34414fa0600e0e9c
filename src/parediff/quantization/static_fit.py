"""One interval for all time, from what each quantiser met."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.quantization.grid import Grid
from parediff.quantization.quantizer import Quantizer, bypassed
from parediff.quantization.samples import Reservoir, Samples, observing
from parediff.quantization.search import search_named


@torch.no_grad()
def fit_static(
    model: DiffusionModel,
    calls: Iterable[Call],
    quantizers: Mapping[str, Quantizer],
    search: str,
    *,
    exponent: float,
    values: int,
    seed: int,
) -> None:
    """Fill each quantiser by a search ('lsq': LSQ's 2 mean |x| / sqrt(Q)) on about `values` of its full-precision
    inputs."""
    reservoirs = {
        name: Reservoir(capacity=values, seed=seed + place)
        for place, name in enumerate(quantizers)
        if not quantizers[name].grid.identity
    }
    watched = {name: quantizers[name] for name in reservoirs}
    with observing(watched, reservoirs), bypassed(model.denoiser):
        for call in calls:
            model.predict(call.x, call.t, call.cond)
    for name, quantizer in watched.items():
        samples = reservoirs[name].samples()
        if search == "lsq":
            quantizer.fill(lsq_step(samples, quantizer.grid))
        else:
            quantizer.fill(search_named(search, exponent=exponent).fit(samples, quantizer.grid)[0][0])


def lsq_step(samples: Samples, grid: Grid) -> Tensor:
    """2 mean |x - offset| / sqrt(Q)."""
    return 2 * (samples.values - grid.offset).abs().mean() / math.sqrt(grid.high)
