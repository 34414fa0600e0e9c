"""How far a compressed network's prediction is from the uncompressed one's at each step, corrected or not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from parediff.models.diffusion.door import Call, Condition, Predict, Run, Wrapper, observing
from parediff.models.diffusion.pipeline import DiffusionModel


@dataclass(frozen=True)
class Reading:
    """One call of the door: its arguments, what the network gave first, and what the sampler got."""

    call: Call
    raw: Tensor
    corrected: Tensor


@dataclass
class StepError:
    """Sums over the predictions of one step; a learned variance is no part of them."""

    t: float
    elements: int = 0
    signal: float = 0.0
    raw_squared: float = 0.0
    raw_sum: float = 0.0
    corrected_squared: float = 0.0
    corrected_sum: float = 0.0

    def add(self, raw: Tensor, corrected: Tensor, exact: Tensor) -> None:
        before, after = (raw - exact).double(), (corrected - exact).double()
        self.elements += exact.numel()
        self.signal += float(exact.double().square().sum())
        self.raw_squared += float(before.square().sum())
        self.raw_sum += float(before.sum())
        self.corrected_squared += float(after.square().sum())
        self.corrected_sum += float(after.sum())


@dataclass
class Meter:
    """Makes the wrapper of every run: it notes what passes while it is `reading`, and changes nothing."""

    reading: bool = False
    readings: list[Reading] = field(default_factory=list)
    errors: dict[int, StepError] = field(default_factory=dict)
    modules: dict[str, Any] = field(default_factory=dict)

    def __call__(self, run: Run) -> Wrapper:
        def wrapper(network: Predict, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
            if not self.reading or run.probing:
                return network(x, t, cond)
            outputs: list[Tensor] = []
            with observing(run.model, lambda _, output: outputs.append(output)):
                corrected = network(x, t, cond)
            if outputs:
                self.readings.append(Reading(Call(x, t, cond, run.index), outputs[0], corrected))
            return corrected

        return wrapper

    @contextmanager
    def open(self) -> Iterator[None]:
        """Runs are read while the block lasts."""
        self.reading = True
        try:
            yield
        finally:
            self.reading = False

    def read(self, model: DiffusionModel, calls: Iterable[Call]) -> None:
        """What happens at the door while the calls are recorded; calls that come from no run are predicted."""
        with self.open():
            known = list(calls)
        for call in known if not self.readings else []:
            output = model.predict(call.x, call.t, call.cond)
            self.readings.append(Reading(call, output, output))

    def calls(self) -> list[Call]:
        """What was read, in the order of reading."""
        return [reading.call for reading in self.readings]

    @torch.no_grad()
    def compare(self, teacher: DiffusionModel) -> None:
        """Errors against the uncompressed network at the same x; the readings are let go."""
        for reading in self.readings:
            call = reading.call
            exact = teacher.predict(call.x, call.t, call.cond)
            error = self.errors.setdefault(call.step, StepError(float(call.t[0])))
            parts = (part[:, : call.x.shape[1]] for part in (reading.raw, reading.corrected, exact))
            error.add(*parts)
        self.readings.clear()

    def table(self) -> dict[str, list[Any]]:
        """Columns over the steps: t, SNR in dB and mean error, each before and after correction."""
        rows = [self.errors[step] for step in sorted(self.errors)]
        return {
            "step": sorted(self.errors),
            "t": [row.t for row in rows],
            "snr_before_db": [decibels(row.signal, row.raw_squared) for row in rows],
            "snr_after_db": [decibels(row.signal, row.corrected_squared) for row in rows],
            "bias_before": [row.raw_sum / row.elements for row in rows],
            "bias_after": [row.corrected_sum / row.elements for row in rows],
        }


def decibels(signal: float, noise: float) -> float | None:
    """10 log10(signal / noise); None where there is no noise or no signal."""
    return 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else None
