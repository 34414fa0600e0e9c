"""Filling the quantisers of a network: weights from themselves, activations from recorded calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from parediff.errors import RequestError
from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.quantization.layers import QuantizedLayer, QuantizedMatmul, SplitQuantizedLayer
from parediff.quantization.quantizer import Quantizer
from parediff.quantization.samples import Reservoir, Samples, observing
from parediff.quantization.search import Search


def input_quantizers(root: nn.Module) -> dict[str, Quantizer]:
    """Every quantiser of an activation, by its path."""
    return {
        f"{path}.{name}": child
        for path, module in root.named_modules()
        if isinstance(module, QuantizedLayer | SplitQuantizedLayer | QuantizedMatmul)
        for name, child in module.named_modules()
        if isinstance(child, Quantizer) and not name.startswith("weight_quantizer")
    }


def fill_from(quantizer: Quantizer, samples: Samples, search: Search) -> None:
    """Search on the quantiser's own grid and take the result over."""
    step, zero_point = search.fit(samples, quantizer.grid)
    if quantizer.axis is None:
        step, zero_point = step[0], None if zero_point is None else zero_point[0]
    quantizer.fill(step, zero_point)


def calibrate_weights(root: nn.Module, search: Search) -> None:
    """Every weight's step from the weight itself."""
    for path, module in root.named_modules():
        if not isinstance(module, QuantizedLayer | SplitQuantizedLayer):
            continue
        for quantizer, weight in module.weight_parts():
            if not quantizer.grid.identity:
                _check(path, bool(torch.isfinite(weight).all()))
                fill_from(quantizer, Samples.of(weight, quantizer.axis), search)


@torch.no_grad()
def calibrate_activations(model: DiffusionModel, calls: Iterable[Call], search: Search, *, capacity: int) -> None:
    """Every activation's step from what the calls bring to it, of which `capacity` values per quantiser are kept.

    The network runs as it is: with rounded weights where those are calibrated, with full-precision activations.
    """
    quantizers = {name: q for name, q in input_quantizers(model.denoiser).items() if not q.grid.identity}
    reservoirs = {name: Reservoir(q.axis, capacity, seed) for seed, (name, q) in enumerate(quantizers.items())}
    for call in _some(calls):
        with observing(quantizers, reservoirs):
            model.predict(call.x, call.t, call.cond)
    for name, quantizer in quantizers.items():
        try:
            samples = reservoirs[name].samples()
        except ValueError as problem:
            raise RequestError("calibration", name, f"{problem}; finite data that reaches it is accepted") from problem
        fill_from(quantizer, samples, search)


def _some(calls: Iterable[Call]) -> Iterator[Call]:
    count = 0
    for count, call in enumerate(calls, 1):  # noqa: B007
        yield call
    if not count:
        raise RequestError("calibration", "empty", "at least one recorded call is accepted")


def _check(path: str, finite: bool) -> None:
    if not finite:
        raise RequestError("model", path, "finite weights are accepted; this layer's hold NaN or infinity")
