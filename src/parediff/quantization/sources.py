"""Where a quantiser's step and zero point come from, at the call at hand."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from parediff.quantization.arithmetic import Fixed, fixed_rows
from parediff.quantization.grid import SMALLEST_STEP, Grid
from parediff.quantization.time_context import TimeContext

Interval = tuple[Tensor, Tensor | None]
"""A step, and a whole-number zero point of its shape on grids that have one."""


class StepSource(nn.Module, ABC):
    """Gives (step, zero point): shape [] per tensor or [groups]; of a `timed` source [B] or [B, groups], B or 1 rows.

    Steps are positive by construction, and float32 whatever dtype the model is cast to.
    """

    timed: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[Fixed] | None = None

    @abstractmethod
    def forward(self, x: Tensor) -> Interval:
        """The interval for x."""

    @abstractmethod
    def fill(self, step: Tensor, zero_point: Tensor | None) -> None:
        """Take over the result of a search, in place; for all time."""

    def fixed(self, grid: Grid) -> Fixed | None:
        """The one interval of the whole tensor at the call under way, where numbers tell it."""
        return None

    def over_time(self) -> Interval:
        """All that is known beforehand: [K] or [K, groups] of a timed source at its context's steps, else as filled."""
        raise TypeError(f"{type(self).__name__} has no steps that are known beforehand")

    def rows(self, grid: Grid) -> list[Fixed]:
        """What is known beforehand of the whole tensor, kept until it changes."""
        if self._rows is None:
            self._rows = fixed_rows(*self.over_time(), grid)
        return self._rows

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> StepSource:
        def keep_float32(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            narrowed = tensor.dtype == torch.float32 and moved.dtype != torch.float32
            return tensor.to(device=moved.device) if narrowed else moved

        self._rows = None
        return super()._apply(keep_float32, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._rows = None
        super()._load_from_state_dict(*args, **kwargs)


class Static(StepSource):
    """A fixed step in a buffer, with a zero point where the grid has one."""

    step: Tensor
    zero: Tensor | None

    def __init__(self, groups: int | None, *, zero_point: bool) -> None:
        super().__init__()
        self.register_buffer("step", torch.ones(shape_of(groups)))
        self.register_buffer("zero", torch.zeros(shape_of(groups)) if zero_point else None)

    def forward(self, x: Tensor) -> Interval:
        return self.step, self.zero

    def fixed(self, grid: Grid) -> Fixed | None:
        return None if self.step.ndim else self.rows(grid)[0]

    @torch.no_grad()
    def fill(self, step: Tensor, zero_point: Tensor | None) -> None:
        self._rows = None
        self.step.copy_(step.clamp_min(SMALLEST_STEP))
        if self.zero is not None and zero_point is not None:
            self.zero.copy_(zero_point.round())

    def over_time(self) -> Interval:
        return self.step, self.zero


class Learned(StepSource):
    """LSQ: the step is a parameter. D = max(|raw|, 1e-8); zero points stay as the search left them.

    With `gradient_levels` = Q, dL/dD is multiplied by 1 / sqrt(numel * Q), numel being the elements that share the step
    (per sample for activations, which is what `batched` says).
    """

    raw: nn.Parameter
    zero: Tensor | None

    def __init__(
        self, groups: int | None, *, zero_point: bool, gradient_levels: int | None = None, batched: bool = False
    ) -> None:
        super().__init__()
        self.gradient_levels, self.batched = gradient_levels, batched
        self.raw = nn.Parameter(torch.ones(shape_of(groups)))
        self.register_buffer("zero", torch.zeros(shape_of(groups)) if zero_point else None)

    def forward(self, x: Tensor) -> Interval:
        step = self.raw.abs().clamp_min(SMALLEST_STEP)
        if self.gradient_levels is not None:
            step = scale_gradient(step, self._gradient_scale(x, self.gradient_levels))
        return step, self.zero

    @torch.no_grad()
    def fill(self, step: Tensor, zero_point: Tensor | None) -> None:
        self.raw.copy_(step)
        if self.zero is not None and zero_point is not None:
            self.zero.copy_(zero_point.round())

    def over_time(self) -> Interval:
        return self.raw.detach().abs().clamp_min(SMALLEST_STEP), self.zero

    def _gradient_scale(self, x: Tensor, levels: int) -> float:
        sharing = x.numel() / self.raw.numel() / (x.shape[0] if self.batched else 1)
        return 1.0 / math.sqrt(sharing * levels)


class TimedSource(StepSource):
    """A source that knows the time step of the call under way."""

    timed = True

    def __init__(self, context: TimeContext) -> None:
        super().__init__()
        self._context = (context,)  # the denoiser's child, not ours: copied with the denoiser

    @property
    def context(self) -> TimeContext:
        return self._context[0]

    @property
    def tabulated(self) -> bool:
        """Whether `over_time` is what calls get."""
        return True

    def fixed(self, grid: Grid) -> Fixed | None:
        """Where all of the batch is at one tabulated time step."""
        entry = self.context.entry if self.tabulated else None
        return None if entry is None else self.rows(grid)[entry]

    def look_up(self, steps: Tensor, zeros: Tensor | None) -> Interval:
        """Rows of tables over the context's steps; zero points between two entries are rounded."""
        return self.context.look_up(steps), None if zeros is None else self.context.look_up(zeros).round()

    def fitting(self, x: Tensor, interval: Interval) -> Interval:
        """The interval for the rows of x; those of another number, such as packed tokens, need one time for all."""
        step, zero_point = interval
        if len(step) in (1, len(x)):
            return interval
        if len(self.context.distinct) > 1:
            raise ValueError(f"{len(step)} time steps for a batch of {len(x)}")
        return step[:1], None if zero_point is None else zero_point[:1]


class PerStep(TimedSource):
    """A table over the context's time steps (TFMQ-DM, arXiv 2311.16503; EfficientDM's TALSQ, arXiv 2310.03270).

    Entry k belongs to the k-th tabulated time step; it is looked up by t, never by counting calls.
    """

    entries: Tensor
    zeros: Tensor | None

    def __init__(self, context: TimeContext, groups: int | None, *, zero_point: bool) -> None:
        super().__init__(context)
        shape = (len(context.steps), *shape_of(groups))
        self.register_buffer("entries", torch.ones(shape))
        self.register_buffer("zeros", torch.zeros(shape) if zero_point else None)

    def forward(self, x: Tensor) -> Interval:
        return self.fitting(x, self.look_up(self.entries, self.zeros))

    def fill(self, step: Tensor, zero_point: Tensor | None) -> None:
        self.fill_entries(slice(None), step, zero_point)

    @torch.no_grad()
    def fill_entries(self, rows: slice, step: Tensor, zero_point: Tensor | None) -> None:
        """The interval at some of the tabulated steps; it broadcasts over them."""
        self._rows = None
        self.entries[rows] = step.clamp_min(SMALLEST_STEP)
        if self.zeros is not None and zero_point is not None:
            self.zeros[rows] = zero_point.round()

    def over_time(self) -> Interval:
        count = len(self.context.known)
        return self.entries[:count], None if self.zeros is None else self.zeros[:count]


def scale_gradient(tensor: Tensor, scale: float) -> Tensor:
    """The tensor itself, bit by bit; its gradient times `scale`."""
    scaled = tensor * scale
    return tensor.detach() + (scaled - scaled.detach())


def round_straight(value: Tensor) -> Tensor:
    """round(value), with the gradient of the identity."""
    return value + (value.round() - value).detach()


def shape_of(groups: int | None) -> tuple[int, ...]:
    return () if groups is None else (groups,)
