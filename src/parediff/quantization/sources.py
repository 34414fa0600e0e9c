"""Where a quantiser's step comes from."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from parediff.quantization.grid import SMALLEST_STEP


class StepSource(nn.Module, ABC):
    """Gives a quantiser its step for the tensor at hand: shape [] (per tensor), [channels] along the quantiser's axis,
    or any shape of x's rank that broadcasts against it (per sample: [B, 1, 1, 1]).

    Positive by construction, and float32 whatever dtype the model is cast to.
    """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """The step for x."""

    def zero_point(self, x: Tensor) -> Tensor | None:
        """Whole numbers of the step's shape; None on grids without a zero point."""
        return None

    @abstractmethod
    def fill(self, step: Tensor, zero_point: Tensor | None) -> None:
        """Take over the result of a search, in place."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> StepSource:
        def keep_float32(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            narrowed = tensor.dtype == torch.float32 and moved.dtype != torch.float32
            return tensor.to(device=moved.device) if narrowed else moved

        return super()._apply(keep_float32, recurse)


class Static(StepSource):
    """A fixed step in a buffer, with a zero point where the grid has one."""

    step: Tensor
    zero: Tensor | None

    def __init__(self, channels: int | None, *, zero_point: bool) -> None:
        super().__init__()
        self.register_buffer("step", torch.ones(_shape(channels)))
        self.register_buffer("zero", torch.zeros(_shape(channels)) if zero_point else None)

    def forward(self, x: Tensor) -> Tensor:
        return self.step

    def zero_point(self, x: Tensor) -> Tensor | None:
        return self.zero

    @torch.no_grad()
    def fill(self, step: Tensor, zero_point: Tensor | None) -> None:
        self.step.copy_(step.clamp_min(SMALLEST_STEP))
        if self.zero is not None and zero_point is not None:
            self.zero.copy_(zero_point.round())


class Learned(StepSource):
    """LSQ: the step is a parameter. D = max(|raw|, 1e-8); zero points stay as the search left them.

    With `gradient_levels` = Q, dL/dD is multiplied by 1 / sqrt(numel * Q), numel being the elements that share the step
    (per sample for activations, which is what `batched` says).
    """

    raw: nn.Parameter
    zero: Tensor | None

    def __init__(
        self, channels: int | None, *, zero_point: bool, gradient_levels: int | None = None, batched: bool = False
    ) -> None:
        super().__init__()
        self.gradient_levels, self.batched = gradient_levels, batched
        self.raw = nn.Parameter(torch.ones(_shape(channels)))
        self.register_buffer("zero", torch.zeros(_shape(channels)) if zero_point else None)

    def forward(self, x: Tensor) -> Tensor:
        step = self.raw.abs().clamp_min(SMALLEST_STEP)
        return step if self.gradient_levels is None else scale_gradient(step, self._gradient_scale(x))

    def zero_point(self, x: Tensor) -> Tensor | None:
        return self.zero

    @torch.no_grad()
    def fill(self, step: Tensor, zero_point: Tensor | None) -> None:
        self.raw.copy_(step)
        if self.zero is not None and zero_point is not None:
            self.zero.copy_(zero_point.round())

    def _gradient_scale(self, x: Tensor) -> float:
        sharing = x.numel() / self.raw.numel() / (x.shape[0] if self.batched else 1)
        return 1.0 / math.sqrt(sharing * (self.gradient_levels or 1))


def scale_gradient(tensor: Tensor, scale: float) -> Tensor:
    """The tensor itself, bit by bit; its gradient times `scale`."""
    scaled = tensor * scale
    return tensor.detach() + (scaled - scaled.detach())


def _shape(channels: int | None) -> tuple[int, ...]:
    return () if channels is None else (channels,)
