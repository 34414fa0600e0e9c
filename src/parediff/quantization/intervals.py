"""The kinds of interval an activation can have: what its quantiser gets in `prepare`, and how calibration fills it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from parediff.errors import RequestError
from parediff.quantization.generated import Generated
from parediff.quantization.generator_fit import GeneratorFit
from parediff.quantization.placement import Slot
from parediff.quantization.quantizer import Quantizer
from parediff.quantization.samples import Samples
from parediff.quantization.search import Search
from parediff.quantization.sources import Learned, PerStep, Static, StepSource
from parediff.quantization.time_context import TimeContext


@dataclass(frozen=True)
class IntervalKind(ABC):
    """One kind. `timed`: intervals depend on the time step, so samples are kept apart by it."""

    timed: ClassVar[bool] = False

    @abstractmethod
    def source(self, slot: Slot, number: int, context: TimeContext | None) -> StepSource:
        """What the n-th activation quantiser reads its interval from."""

    def fit(self, quantizers: Mapping[str, Any], samples: Mapping[str, Samples], search: Search) -> None:
        """Fill every quantiser from what it met."""
        for name, quantizer in quantizers.items():
            with naming(name):
                quantizer.take(pooled(quantizer, samples[name]), search)


@dataclass(frozen=True)
class StaticInterval(IntervalKind):
    """One for all time, as the search finds it."""

    def source(self, slot: Slot, number: int, context: TimeContext | None) -> StepSource:
        return Static(slot.groups, zero_point=slot.grid.has_zero_point)


@dataclass(frozen=True)
class LearnedInterval(IntervalKind):
    """One for all time, a parameter; with LSQ's scale of its gradient where `trained` by the whole network's loss."""

    trained: bool

    def source(self, slot: Slot, number: int, context: TimeContext | None) -> StepSource:
        levels = slot.grid.high if self.trained and not slot.grid.identity else None
        return Learned(slot.groups, zero_point=slot.grid.has_zero_point, gradient_levels=levels, batched=True)


@dataclass(frozen=True)
class PerStepInterval(IntervalKind):
    """The best one at every time step, in a table."""

    timed = True

    def source(self, slot: Slot, number: int, context: TimeContext | None) -> StepSource:
        assert context is not None
        return PerStep(context, slot.groups, zero_point=slot.grid.has_zero_point)

    def fit(self, quantizers: Mapping[str, Any], samples: Mapping[str, Samples], search: Search) -> None:
        super().fit(quantizers, samples, search)
        for name, quantizer in quantizers.items():
            if isinstance(quantizer.source, PerStep):
                step, zero_point = over_time(*search.fit(samples[name], quantizer.grid), quantizer)
                quantizer.check(step)
                quantizer.source.fill_entries(slice(0, len(step)), step, zero_point)


@dataclass(frozen=True)
class GeneratedInterval(IntervalKind):
    """A network's function of the time step (TDQ): scale, and on affine grids the zero point too."""

    timed = True

    settings: GeneratorFit
    seed: int

    def source(self, slot: Slot, number: int, context: TimeContext | None) -> StepSource:
        assert context is not None
        generator = torch.Generator().manual_seed(self.seed * 100_003 + number)
        return Generated(context, slot.grid, slot.groups, dropout=self.settings.dropout, generator=generator)

    def fit(self, quantizers: Mapping[str, Any], samples: Mapping[str, Samples], search: Search) -> None:
        timed = {name: one for name, one in quantizers.items() if isinstance(one.source, Generated)}
        for one in timed.values():
            one.source.restart()
        super().fit(quantizers, samples, self.settings.start or search)
        if not self.settings.fits:
            return
        samples = {name: search.seen(samples[name]) for name in timed}
        tables = {name: over_time(*search.fit(samples[name], one.grid), one) for name, one in timed.items()}
        self.settings.fit(timed, samples, tables, search)


def source_of(kind: IntervalKind, slot: Slot, number: int, context: TimeContext | None) -> StepSource:
    """A static one where nothing is rounded, or where the network does not know the time step yet."""
    fixed = slot.grid.identity or slot.timeless
    return (StaticInterval() if fixed and kind.timed else kind).source(slot, number, context)


def pooled(quantizer: Quantizer, samples: Samples) -> Samples:
    """What was met at all times together."""
    groups = quantizer.channels or 1
    return samples if len(samples.values) == groups else samples.pooled(groups)


def over_time(step: Tensor, zero_point: Tensor | None, quantizer: Quantizer) -> tuple[Tensor, Tensor | None]:
    """[K * groups] as [K], or [K, groups]."""
    groups = quantizer.channels

    def laid(value: Tensor) -> Tensor:
        return value if groups is None else value.unflatten(0, (-1, groups))

    return laid(step), None if zero_point is None else laid(zero_point)


class naming:
    """Problems with data name the layer that met it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: Any, problem: BaseException | None, __: Any) -> None:
        if isinstance(problem, ValueError) and not isinstance(problem, RequestError):
            accepted = f"{problem}; finite data that reaches it is accepted"
            raise RequestError("calibration", self.name, accepted) from problem


KINDS: dict[str, type[IntervalKind]] = {
    "static": StaticInterval,
    "learned": LearnedInterval,
    "per_step": PerStepInterval,
    "generated": GeneratedInterval,
}
