"""The time step of the denoiser call under way, for every quantiser whose interval depends on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from parediff.models.diffusion.time import announce_time, time_width

NAME = "time_context"
UNUSED = torch.finfo(torch.float32).min
"""Of a free place: a number that averages to itself, below every time step; some networks count time below zero."""


def embedding_of(t: Tensor, channels: int) -> Tensor:
    """TDQ's e(t) = [cos(t w_i), sin(t w_i)], w_i = 10000^(-i / (d/2)), for t [B]: [B, d] float32; odd d ends in a 0."""
    half = channels // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t.float()[:, None] * frequencies
    return nn.functional.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, channels % 2))


class TimeContext(nn.Module):
    """One per denoiser, as its child `time_context`: t [B] of the call under way, and the steps that tables hold.

    `steps` [capacity] holds the tabulated time steps in ascending order, then UNUSED. It is filled in `calibrate`.
    The call's t arrives where time enters the network, so wrappers, replays and training all pass through here.
    """

    steps: Tensor

    def __init__(self, capacity: int, channels: int, *, interpolate: bool) -> None:
        super().__init__()
        self.channels, self.interpolate = channels, interpolate
        self.register_buffer("steps", torch.full((capacity,), UNUSED))
        self._t: Tensor | None = None
        self._forget()

    def enter(self, t: Tensor) -> None:
        """A new call begins."""
        self._t = t.detach().reshape(-1)
        self._forget()

    def _forget(self) -> None:
        self._places: tuple[Tensor, Tensor, Tensor] | None = None
        self._embedding: Tensor | None = None
        self._distinct: list[float] | None = None
        self._entry: list[int | None] = []

    @property
    def t(self) -> Tensor:
        """[B], or [1] where one time step stands for the batch."""
        if self._t is None:
            raise RuntimeError("no denoiser call is under way: a layer whose interval depends on time was called alone")
        return self._t

    @property
    def known(self) -> Tensor:
        """The tabulated time steps, ascending."""
        return self.steps[self.steps > UNUSED]

    def deployed(self) -> dict[str, tuple[Tensor, float]]:
        """The time steps of the tables without the free places behind them, so not `steps`; with their bits."""
        return {"known": (self.known, 32.0)}

    @property
    def embedding(self) -> Tensor:
        """e(t) [B, channels], computed once a call."""
        if self._embedding is None:
            self._embedding = embedding_of(self.t, self.channels)
        return self._embedding

    @property
    def distinct(self) -> list[float]:
        """The call's time steps, each once, ascending."""
        if self._distinct is None:
            self._distinct = [float(t) for t in self.t.unique()]
        return self._distinct

    @property
    def entry(self) -> int | None:
        """The place of the call's one time step among the tabulated; None where there are several or none.

        On a device it is None too: to read a number there is to wait for it.
        """
        if not self._entry:
            self._entry.append(self._find_entry())
        return self._entry[0]

    def _find_entry(self) -> int | None:
        if self.t.device.type != "cpu" or self.steps.device.type != "cpu" or len(self.distinct) != 1:
            return None
        place = (self.known == self.distinct[0]).nonzero()
        return int(place) if len(place) else None

    def remember_all(self, times: Iterable[Tensor]) -> None:
        """Take the time steps [B] of many calls for the tables."""
        found = [t.double() for t in times]
        if found:
            self.remember(torch.cat(found))

    @torch.no_grad()
    def remember(self, steps: Tensor) -> None:
        """Take these time steps for the tables."""
        distinct = steps.detach().double().unique().to(self.steps)
        if len(distinct) > len(self.steps):
            raise ValueError(f"{len(distinct)} time steps; tables hold {len(self.steps)}")
        self._forget()
        self.steps.fill_(UNUSED)
        self.steps[: len(distinct)] = distinct

    def look_up(self, table: Tensor) -> Tensor:
        """table [K, ...] at the call's time steps: [B, ...]."""
        if self._places is None:
            self._places = self._find(self.t.to(self.steps))
        below, above, share = self._places
        if not self.interpolate:
            return table[below]
        weight = share.to(table.dtype).reshape(-1, *[1] * (table.ndim - 1))
        return torch.lerp(table[below], table[above], weight)

    def _find(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(index of the step at or below, index at or above, how far in between); beyond the ends, the end."""
        known = self.known
        if not len(known):
            raise ValueError("no time steps are tabulated: calibrate first")
        above = torch.searchsorted(known, t.contiguous()).clamp_max(len(known) - 1)
        below = torch.where(known[above] > t, above - 1, above).clamp_min(0)
        exact = (known[below] == t) | (known[above] == t)
        if not self.interpolate and not bool(exact.all()):
            raise UnknownStep(float(t[~exact][0]), known)
        gap = known[above] - known[below]
        share = torch.where(gap > 0, (t - known[below]) / gap.clamp_min(1e-12), torch.zeros_like(gap))
        return torch.where(known[above] == t, above, below), above, torch.where(exact, torch.zeros_like(gap), share)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TimeContext:
        def keep_float32(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.is_floating_point() and moved.dtype != tensor.dtype else moved

        return super()._apply(keep_float32, recurse)


class UnknownStep(ValueError):
    """A time step that no table holds."""

    def __init__(self, t: float, known: Tensor) -> None:
        self.t = t
        super().__init__(
            f"time step {t:g} is not among the {len(known)} tabulated ones ({known[0]:g} to {known[-1]:g}): "
            "calibrate on every step of the sampler, tabulate again for it, or ask for unseen_steps=interpolate"
        )


def install_time_context(denoiser: Any, capacity: int, *, interpolate: bool) -> TimeContext:
    """The denoiser's context, made if it has none; `interpolate` holds for all who share it."""
    context = find_time_context(denoiser)
    if context is None:
        context = TimeContext(capacity, time_width(denoiser), interpolate=interpolate)
        denoiser.add_module(NAME, context)
        announce_time(denoiser, context)
    context.interpolate = context.interpolate or interpolate
    return context


def find_time_context(denoiser: nn.Module) -> TimeContext | None:
    context = getattr(denoiser, NAME, None)
    return context if isinstance(context, TimeContext) else None


def time_context_of(denoiser: nn.Module) -> TimeContext:
    """The denoiser's context; raises where none was installed."""
    context = find_time_context(denoiser)
    if context is None:
        raise ValueError(f"{type(denoiser).__name__} has no time context: prepare comes first")
    return context
