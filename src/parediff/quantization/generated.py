"""Intervals generated from the time step: TDQ, arXiv 2306.02316 (section numbers are of its specification, tdq.md)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from parediff.quantization.grid import SMALLEST_STEP, Grid
from parediff.quantization.sources import Interval, TimedSource, round_straight
from parediff.quantization.time_context import TimeContext, embedding_of

WIDTH = 64
LAST_WEIGHT_SCALE = 0.1
"""Shrinks the initial last weight, so that s(t) starts close to s0 for every t (section 2.2)."""


Product = Callable[[Tensor, Tensor, Tensor], Tensor]
"""x, weight and bias to what a linear layer gives."""


def inverse_softplus(value: Tensor) -> Tensor:
    """c with softplus(c) = value: log(expm1(v)), and v + log(1 - exp(-v)) where expm1 would overflow."""
    value = value.double().clamp_min(SMALLEST_STEP)
    return torch.where(value < 20, torch.log(torch.expm1(value.clamp_max(20))), value + torch.log1p(-torch.exp(-value)))


class Generated(TimedSource):
    """softplus(W4 relu(W3 relu(W2 relu(W1 e(t))))), positive numbers per sample; four linear layers of width 64.

    The number is the step s(t); on a grid with a zero point it is two numbers, how far the interval reaches below and
    above zero, from which step and zero point follow. Once tabulated no layer of it runs: the interval is looked up by
    t. Tables stay out of the state_dict, which holds the generator before and after.
    """

    flat: Tensor
    table: Tensor | None
    zeros: Tensor | None

    def __init__(
        self, context: TimeContext, grid: Grid, groups: int | None, *, dropout: float, generator: torch.Generator
    ) -> None:
        super().__init__(context)
        self.grid, self.groups, self.dropout = grid, groups, dropout
        widths = (context.channels, WIDTH, WIDTH, WIDTH)
        self.hidden = nn.ModuleList(_linear(a, b, generator) for a, b in pairwise(widths))
        self.last = _linear(WIDTH, (groups or 1) * (2 if grid.has_zero_point else 1), generator)
        self.register_buffer("flat", self.last.weight.detach() * LAST_WEIGHT_SCALE, persistent=False)
        self.last.weight.data.copy_(self.flat)
        self.register_buffer("table", None, persistent=False)
        self.register_buffer("zeros", None, persistent=False)

    def forward(self, x: Tensor) -> Interval:
        return self.fitting(x, self._now() if self.table is None else self.look_up(self.table, self.zeros))

    def reach(self, embedding: Tensor) -> Tensor:
        """What the network gives out for e(t) [B, d]: positive, [B, groups * numbers]."""
        return _positive(self._raw(embedding, F.linear))

    def _raw(self, embedding: Tensor, product: Product) -> Tensor:
        """What is made positive at the end."""
        hidden, layers = embedding, cast(list[nn.Linear], list(self.hidden))
        for layer in layers:
            hidden = F.relu(product(hidden, layer.weight, layer.bias))
        hidden = F.dropout(hidden, self.dropout, self.training)
        return product(hidden, self.last.weight, self.last.bias)

    def interval_of(self, reach: Tensor) -> Interval:
        """(step, zero point), each [B] or [B, groups]."""
        numbers = reach.unflatten(1, (self.groups or 1, -1))
        numbers = numbers[:, 0] if self.groups is None else numbers
        if not self.grid.has_zero_point:
            return numbers[..., 0], None
        below, above = numbers[..., 0], numbers[..., 1]
        step = ((above + below) / self.grid.high).clamp_min(SMALLEST_STEP)
        return step, round_straight(below / step).clamp(self.grid.low, self.grid.high)

    def reach_of(self, step: Tensor, zero_point: Tensor | None) -> Tensor:
        """The numbers that stand for an interval: [..., 1] or [..., 2]."""
        if zero_point is None:
            return step[..., None]
        return torch.stack([zero_point * step, (self.grid.high - zero_point) * step], dim=-1)

    @torch.no_grad()
    def at(self, t: Tensor) -> Interval:
        """For time steps [K], without dropout, each bit by bit as it is alone."""
        training, self.training = self.training, False
        raw = self._raw(embedding_of(t, self.context.channels), row_by_row)
        self.training = training
        return self.interval_of(torch.cat([_positive(row) for row in raw.split(1)]))

    @torch.no_grad()
    def restart(self) -> None:
        """Nearly constant over time again, as before anything was learned."""
        self.last.weight.copy_(self.flat)
        self.forget()

    @torch.no_grad()
    def fill(self, step: Tensor, zero_point: Tensor | None) -> None:
        """Start from a static interval."""
        reach = self.reach_of(step, zero_point).reshape(-1).expand(len(self.last.bias))
        self.last.bias.copy_(inverse_softplus(reach).to(self.last.bias))
        self.forget()

    @torch.no_grad()
    def hold(self, interval: Interval) -> None:
        """Give one interval [K] for all time, the first."""
        self.last.weight.zero_()
        self.fill(*(None if one is None else one[0] for one in interval))  # type: ignore[arg-type]

    @torch.no_grad()
    def fill_entries(self, rows: slice, step: Tensor, zero_point: Tensor | None) -> None:
        """Tabulate these intervals at some of the context's steps, whatever the generator says."""
        if self.table is None:
            self.tabulate()
        assert self.table is not None
        self._rows = None
        self.table[rows] = step.clamp_min(SMALLEST_STEP)
        if self.zeros is not None and zero_point is not None:
            self.zeros[rows] = zero_point.round()

    @property
    def tabulated(self) -> bool:
        return self.table is not None

    def tabulate(self) -> None:
        """Evaluate the generator at the context's steps, once and for all."""
        self._rows = None
        self.table, self.zeros = self.at(self.context.known)

    def forget(self) -> None:
        """Run the generator again."""
        self.table = self.zeros = self._rows = None

    def over_time(self) -> Interval:
        return self.at(self.context.known) if self.table is None else (self.table, self.zeros)

    def _now(self) -> Interval:
        if torch.is_grad_enabled() or self.training:
            return self.interval_of(self.reach(self.context.embedding))
        distinct, where = self.context.t.unique(return_inverse=True)
        step, zero_point = self.at(distinct)
        return step[where], None if zero_point is None else zero_point[where]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.forget()
        super()._load_from_state_dict(*args, **kwargs)


def _positive(raw: Tensor) -> Tensor:
    return F.softplus(raw).clamp_min(SMALLEST_STEP)


def row_by_row(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear layer [B, in] -> [B, out] whose rows do not depend on each other: a product's rounding does, on B."""
    return (weight * x[:, None]).sum(dim=2) + bias


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer with He's initial weights and a zero bias, drawn from the generator."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
    nn.init.zeros_(layer.bias)
    return layer
