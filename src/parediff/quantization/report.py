"""Where the error is made: signal to quantisation noise, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.quantization.layers import layers_of


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
