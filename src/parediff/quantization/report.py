"""What quantisation did to each layer: bits, grids, intervals over time, and where the error is made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.tree import named
from parediff.quantization.generated import Generated
from parediff.quantization.intervals import layers_of, offsets_of
from parediff.quantization.layers import LAYERS, FoldableLayer, QuantizedMatmul
from parediff.quantization.quantizer import Quantizer
from parediff.quantization.sources import Learned, Static
from parediff.quantization.tables import PerStepTable


def description(denoiser: nn.Module) -> dict[str, Any]:
    """Plain numbers: each layer's bits, grid and range of steps over time; and what stays in full precision."""
    layers = {path: _described(module) for path, module in layers_of(denoiser).items()}
    return {"layers": layers, "quantised": len(layers), "full_precision": unquantised(denoiser)}


def unquantised(denoiser: nn.Module) -> list[str]:
    """Convolutions and linears that nothing rounds."""
    inside = (*LAYERS, FoldableLayer, QuantizedMatmul)
    return [path for path, module in named(denoiser, inside) if isinstance(module, LAYERS)]


def _described(module: FoldableLayer | QuantizedMatmul) -> dict[str, Any]:
    found = {path: child for path, child in module.named_modules() if isinstance(child, Quantizer)}
    told = {path: _quantizer(child) for path, child in found.items()}
    for path, offset in offsets_of(module).items():
        told[path] |= {"offset": float(offset.beta)}
    return told


def _quantizer(quantizer: Quantizer) -> dict[str, Any]:
    if not quantizer.on:
        return {"bits": quantizer.bits}
    steps = steps_over_time(quantizer)
    smallest, largest = float(steps.min()), float(steps.max())
    told = {"bits": quantizer.bits, "grid": quantizer.grid.kind, "smallest_step": smallest, "largest_step": largest}
    if quantizer.axis is not None:
        return told | {"steps_of": "channels"}
    low, high = quantizer.grid.span(steps, zero_points_over_time(quantizer))
    return told | {"steps_of": "time", "widest_interval": [float(low.min()), float(high.max())]}


def steps_over_time(quantizer: Quantizer) -> Tensor:
    """The step at every tabulated time step [K]; a single one [1] where it is static."""
    source = quantizer.source
    if isinstance(source, Generated):
        return source.steps_at(source.context.known) if source.table is None else source.table
    if isinstance(source, PerStepTable):
        return source.entries[: len(source.context.known)]
    if isinstance(source, Learned):
        return source.raw.detach().abs().reshape(-1)
    if isinstance(source, Static):
        return source.step.reshape(-1)
    raise TypeError(f"{type(source).__name__} has no steps that are known beforehand")


def zero_points_over_time(quantizer: Quantizer) -> Tensor | None:
    """Beside `steps_over_time`; None on grids without a zero point."""
    source = quantizer.source
    if isinstance(source, PerStepTable):
        return None if source.zeros is None else source.zeros[: len(source.context.known)]
    zero = getattr(source, "zero", None)
    return zero.reshape(-1) if isinstance(zero, Tensor) else None


@torch.no_grad()
def signal_to_noise(student: DiffusionModel, teacher: DiffusionModel, calls: Iterable[Call]) -> dict[str, Any]:
    """Decibels per quantised layer against the same layer of the uncompressed model, on the same calls.

    `own`: the error the layer makes on the uncompressed model's input; `arriving`: of its output when everything before
    it is quantised as well. A layer with a low `own` is where the error is made. `output` is the whole network's.
    """
    layers = layers_of(student.denoiser)
    plain_layers = {path: teacher.denoiser.get_submodule(path) for path in layers if _has(teacher.denoiser, path)}
    powers = {path: _Power() for path in [*plain_layers, "output"]}
    for call in calls:
        plain: dict[str, Any] = {}
        arrived: dict[str, Any] = {}
        with _hooked(plain_layers, plain):
            expected = teacher.predict(call.x, call.t, call.cond)
        with _hooked({path: layers[path] for path in plain_layers}, arrived):
            powers["output"].add("arriving", expected, student.predict(call.x, call.t, call.cond))
        for path, (args, output) in plain.items():
            powers[path].add("arriving", output, arrived[path][1])
            powers[path].add("own", output, layers[path](*args))
    return {path: power.decibels() for path, power in powers.items()}


def _has(denoiser: nn.Module, path: str) -> bool:
    return any(name == path for name, _ in denoiser.named_modules())


class _Power:
    """Summed squares of signals and errors."""

    def __init__(self) -> None:
        self.signal = {"own": 0.0, "arriving": 0.0}
        self.noise = {"own": 0.0, "arriving": 0.0}

    def add(self, kind: str, plain: Tensor, rounded: Tensor) -> None:
        self.signal[kind] += float(plain.double().square().sum())
        self.noise[kind] += float((rounded.double() - plain.double()).square().sum())

    def decibels(self) -> dict[str, float]:
        """At most 200, where there is no error at all."""
        return {
            kind: min(200.0, 10 * float(torch.tensor(self.signal[kind] / max(self.noise[kind], 1e-300)).log10()))
            for kind in self.signal
            if self.signal[kind] > 0
        }


@contextmanager
def _hooked(layers: dict[str, Any], seen: dict[str, Any]) -> Iterator[None]:
    """(arguments, output) of each layer's last call go into `seen`."""
    with ExitStack() as stack:
        for path, module in layers.items():
            hook = module.register_forward_hook(
                lambda _, args, output, path=path: seen.__setitem__(path, (args, output))
            )
            stack.callback(hook.remove)
        yield
