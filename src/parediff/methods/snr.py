"""An instrument: the signal-to-quantisation-noise of the prediction along the trajectory, in the record."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from parediff.correction.meter import Meter
from parediff.methods.base import Method
from parediff.model.diffusion import DiffusionModel
from parediff.model.door import Call


@dataclass(frozen=True)
class Snr(Method):
    """Listed last, it reads the calibration run of the compressed model as it will sample, and changes nothing.

    `before` is what the network gave, `after` what the sampler got behind the corrections of the methods listed before;
    both are compared with the uncompressed network at the same x, so errors of earlier steps are not counted again.
    """

    corrects: ClassVar[bool] = True

    def prepare(self, model: DiffusionModel) -> None:
        model.wrap(Meter())

    def calibrate(self, model: DiffusionModel, calls: Iterable[Call]) -> None:
        _meter(model).read(model, calls)

    def training(self, student: DiffusionModel, teacher: DiffusionModel) -> None:
        """Nothing to train: the one moment at which student and teacher are both at hand."""
        _meter(student).compare(teacher)

    def fired(self, model: DiffusionModel) -> dict[str, Any]:
        return _meter(model).table()


def _meter(model: DiffusionModel) -> Meter:
    return next(factory for factory in model.wrapper_factories if isinstance(factory, Meter))
