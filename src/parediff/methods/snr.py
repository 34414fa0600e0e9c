"""An instrument: the signal-to-quantisation-noise of the prediction along the trajectory, in the record."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from parediff.correction.meter import Meter
from parediff.errors import RequestError
from parediff.methods.base import Method
from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.quantization.layers import layers_of
from parediff.quantization.report import signal_to_noise

MODULE_CALLS = 8
"""So many calls, spread over the trajectory, tell the modules' errors."""


@dataclass(frozen=True)
class Snr(Method):
    """Listed last, it reads the calibration run of the compressed model as it will sample, and changes nothing.

    `before` is what the network gave, `after` what the sampler got behind the corrections of the methods listed before;
    both are compared with the uncompressed network at the same x, so errors of earlier steps are not counted again.
    With `modules` every quantised layer is compared too: `own` is the error it makes on the uncompressed model's input,
    `arriving` that of its output with everything before it quantised (signal_to_noise, in dB).
    """

    corrects: ClassVar[bool] = True

    modules: bool

    def prepare(self, model: DiffusionModel) -> None:
        if self.modules and not layers_of(model.denoiser):
            raise RequestError("modules", True, "a model whose layers were quantised by a method listed before snr")
        model.wrap(Meter())

    def calibrate(self, model: DiffusionModel, calls: Iterable[Call]) -> None:
        _meter(model).read(model, calls)

    def training(self, student: DiffusionModel, teacher: DiffusionModel) -> None:
        """Nothing to train: the one moment at which student and teacher are both at hand."""
        meter = _meter(student)
        if self.modules:
            meter.modules = signal_to_noise(student, teacher, spread(meter.calls(), MODULE_CALLS))
        meter.compare(teacher)

    def fired(self, model: DiffusionModel) -> dict[str, Any]:
        meter = _meter(model)
        return meter.table() | ({"modules": meter.modules} if self.modules else {})


def spread(calls: Sequence[Call], count: int) -> list[Call]:
    """At most `count` of them, evenly spaced, the first and the last included."""
    if len(calls) <= count:
        return list(calls)
    return [calls[round(place * (len(calls) - 1) / (count - 1))] for place in range(count)]


def _meter(model: DiffusionModel) -> Meter:
    return next(factory for factory in model.wrapper_factories if isinstance(factory, Meter))
