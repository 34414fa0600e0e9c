"""One step for each time step of the sampler (TFMQ-DM, arXiv 2311.16503; EfficientDM's TALSQ, arXiv 2310.03270)."""

from __future__ import annotations

import torch
from torch import Tensor

from parediff.quantization.grid import SMALLEST_STEP
from parediff.quantization.sources import StepSource
from parediff.quantization.time_context import TimeContext


class PerStepTable(StepSource):
    """A table of steps (and zero points) over the context's time steps, looked up by t, never by counting calls.

    Entry k belongs to the k-th tabulated time step. Zero points between two entries are rounded.
    """

    entries: Tensor
    zeros: Tensor | None

    def __init__(self, context: TimeContext, *, zero_point: bool) -> None:
        super().__init__()
        self._context = (context,)
        capacity = len(context.steps)
        self.register_buffer("entries", torch.ones(capacity))
        self.register_buffer("zeros", torch.zeros(capacity) if zero_point else None)

    @property
    def context(self) -> TimeContext:
        return self._context[0]

    def forward(self, x: Tensor) -> Tensor:
        return self._at_call(self.entries, x)

    def zero_point(self, x: Tensor) -> Tensor | None:
        return None if self.zeros is None else self._at_call(self.zeros, x).round()

    @torch.no_grad()
    def fill(self, step: Tensor, zero_point: Tensor | None) -> None:
        """The same step at every time step."""
        self.entries.fill_(float(step.clamp_min(SMALLEST_STEP)))
        if self.zeros is not None and zero_point is not None:
            self.zeros.fill_(float(zero_point.round()))

    @torch.no_grad()
    def fill_entry(self, index: int, step: Tensor, zero_point: Tensor | None) -> None:
        """The step at the `index`-th tabulated time step."""
        self.entries[index] = step.clamp_min(SMALLEST_STEP)
        if self.zeros is not None and zero_point is not None:
            self.zeros[index] = zero_point.round()

    def _at_call(self, table: Tensor, x: Tensor) -> Tensor:
        return self.context.look_up(table).reshape(-1, *[1] * (x.ndim - 1))
