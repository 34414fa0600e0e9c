"""Steps generated from the time step: TDQ, arXiv 2306.02316 (section numbers are of its specification, tdq.md)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from parediff.quantization.grid import SMALLEST_STEP
from parediff.quantization.sources import StepSource
from parediff.quantization.time_context import TimeContext, embedding_of

WIDTH = 64
LAST_WEIGHT_SCALE = 0.1
"""Shrinks the initial last weight, so that s(t) starts close to s0 for every t (section 2.2)."""


def inverse_softplus(step: Tensor) -> Tensor:
    """c with softplus(c) = step: log(expm1(step)), and step + log(1 - exp(-step)) where expm1 would overflow."""
    step = step.double().clamp_min(SMALLEST_STEP)
    return torch.where(step < 20, torch.log(torch.expm1(step.clamp_max(20))), step + torch.log1p(-torch.exp(-step)))


class Generated(StepSource):
    """s(t) = softplus(w4 . relu(W3 relu(W2 relu(W1 e(t))))), one value per sample; four linear layers of width 64.

    Once tabulated no layer of it runs: the step is looked up by t. The table stays out of the state_dict, which holds
    the generator before and after.
    """

    table: Tensor | None

    def __init__(self, context: TimeContext, *, dropout: float, generator: torch.Generator) -> None:
        super().__init__()
        self._context = (context,)  # the denoiser's child, not ours: copied with the denoiser
        self.dropout = dropout
        widths = (context.channels, WIDTH, WIDTH, WIDTH)
        self.hidden = nn.ModuleList(_linear(a, b, generator) for a, b in pairwise(widths))
        self.last = _linear(WIDTH, 1, generator)
        with torch.no_grad():
            self.last.weight.mul_(LAST_WEIGHT_SCALE)
        self.register_buffer("table", None, persistent=False)

    @property
    def context(self) -> TimeContext:
        return self._context[0]

    def forward(self, x: Tensor) -> Tensor:
        """[B, 1, ...]: one step per sample of x."""
        steps = self._now() if self.table is None else self.context.look_up(self.table)
        if len(steps) not in (1, len(x)):
            raise ValueError(f"{len(steps)} time steps for a batch of {len(x)}")
        return steps.reshape(-1, *[1] * (x.ndim - 1))

    def steps_of(self, embedding: Tensor) -> Tensor:
        """s [B] for e(t) [B, d]."""
        hidden = embedding
        for layer in self.hidden:
            hidden = F.relu(layer(hidden))
        hidden = F.dropout(hidden, self.dropout, self.training)
        return F.softplus(self.last(hidden))[:, 0].clamp_min(SMALLEST_STEP)

    @torch.no_grad()
    def steps_at(self, t: Tensor) -> Tensor:
        """s [K] for time steps [K], without dropout, each computed alone: a product's rounding depends on its batch."""
        training, self.training = self.training, False
        steps = [self.steps_of(embedding_of(one, self.context.channels)) for one in t.reshape(-1, 1)]
        self.training = training
        return torch.cat(steps)

    @torch.no_grad()
    def fill(self, step: Tensor, zero_point: Tensor | None) -> None:
        """Start from a static step: softplus(bias) = step."""
        self.last.bias.copy_(inverse_softplus(step).to(self.last.bias).reshape(1))
        self.table = None

    def tabulate(self) -> None:
        """Evaluate the generator at the context's steps, once and for all."""
        self.table = self.steps_at(self.context.known)

    def _now(self) -> Tensor:
        if torch.is_grad_enabled() or self.training:
            return self.steps_of(self.context.embedding)
        distinct, where = self.context.t.unique(return_inverse=True)
        return self.steps_at(distinct)[where]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.table = None
        super()._load_from_state_dict(*args, **kwargs)


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer with He's initial weights and a zero bias, drawn from the generator."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
    nn.init.zeros_(layer.bias)
    return layer
