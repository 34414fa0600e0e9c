"""Rounding to a grid in float32, with the gradients of LSQ: xhat = D * clip(round(x / D), low, high)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from parediff.quantization.grid import Grid

Bound = int | Tensor


def fake_quantize(x: Tensor, step: Tensor, zero_point: Tensor | None, grid: Grid) -> Tensor:
    """x rounded to the grid, in x's dtype; computed in float32 (float64 for float64) whatever the model runs in.

    `step` and `zero_point` broadcast against x. Gradients: x passes strictly inside the grid and nowhere else; the step
    receives round(v) - v inside and the clipped code outside (v = x / step); the zero point receives -step outside.
    """
    if torch.is_grad_enabled() and any(_wants_gradient(tensor) for tensor in (x, step, zero_point)):
        return _FakeQuantize.apply(x, step, zero_point, grid)
    return _rounded(x, step, zero_point, grid)


Fixed = tuple[Tensor, float, float, float]
"""Step [], the grid's ends counted from the zero point, and its offset."""


def fixed_rows(step: Tensor, zero_point: Tensor | None, grid: Grid) -> list[Fixed]:
    """What `round_fixed` needs of each interval, [K] or a single one: the ends are numbers, so nothing is waited for.

    Steps stay on their device, where a division by a number of the processor would be a product with its inverse.
    """
    steps = step.detach().flatten().clone()
    zeros = [0.0] * len(steps) if zero_point is None else zero_point.flatten().tolist()
    return [(one, *_bounds(grid, zero), grid.offset) for one, zero in zip(steps, zeros, strict=True)]


def round_fixed(x: Tensor, step: Tensor, low: float, high: float, offset: float) -> Tensor:
    """fake_quantize bit by bit, without gradients and with fewer passes over x."""
    v = x if x.dtype in (torch.float32, torch.float64) else x.float()
    v = (v - offset).div_(step) if offset else v / step
    v = v.round_().clamp_(low, high).mul_(step)
    return (v.add_(offset) if offset else v).to(x.dtype)


@torch.no_grad()
def codes_of(x: Tensor, step: Tensor, zero_point: Tensor | None, grid: Grid) -> Tensor:
    """The integers, int32, in grid.low..grid.high."""
    centred = _clipped(_scaled(x, step, grid).round_(), grid, zero_point)
    return (centred if zero_point is None else centred.add_(zero_point)).to(torch.int32)


def _wants_gradient(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.requires_grad


def _bounds(grid: Grid, zero_point: Tensor | float | None) -> tuple[Any, Any]:
    """The grid's ends counted from the zero point."""
    return (grid.low, grid.high) if zero_point is None else (grid.low - zero_point, grid.high - zero_point)


def _scaled(x: Tensor, step: Tensor, grid: Grid) -> Tensor:
    """v = (x - offset) / step, a new tensor."""
    x = x if x.dtype in (torch.float32, torch.float64) else x.float()
    return (x - grid.offset).div_(step) if grid.offset else x / step


def _clipped(v: Tensor, grid: Grid, zero_point: Tensor | None) -> Tensor:
    """v held between the grid's ends, in place. Clamping to tensors takes six times as long as this."""
    low, high = _bounds(grid, zero_point)
    if not isinstance(zero_point, Tensor):
        return v.clamp_(low, high)
    return torch.minimum(torch.maximum(v, low, out=v), high, out=v)


def _rounded(x: Tensor, step: Tensor, zero_point: Tensor | None, grid: Grid) -> Tensor:
    value = _clipped(_scaled(x, step, grid).round_(), grid, zero_point).mul_(step)
    return (value.add_(grid.offset) if grid.offset else value).to(x.dtype)


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, zero_point: Tensor | None, grid: Grid) -> Tensor:
        ctx.save_for_backward(x, step, zero_point)
        ctx.grid = grid
        return _rounded(x, step, zero_point, grid)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, step, zero_point = ctx.saved_tensors
        low, high = _bounds(ctx.grid, zero_point)
        v = _scaled(x, step, ctx.grid)
        upstream = gradient.to(v.dtype)
        for_x = for_step = for_zero = None
        if ctx.needs_input_grad[0]:
            for_x = _kept_inside(upstream, v, low, high).to(x.dtype)
        if not any(ctx.needs_input_grad[1:]):
            return for_x, None, None, None
        inside = (v > low) & (v < high)
        if ctx.needs_input_grad[1]:
            codes = _clipped(v.round(), ctx.grid, zero_point)
            slope = torch.where(inside, codes - v, codes)
            for_step = (upstream * slope).sum_to_size(step.shape).to(step.dtype)
        if zero_point is not None and ctx.needs_input_grad[2]:
            for_zero = -(upstream * ~inside * step).sum_to_size(zero_point.shape)
        return for_x, for_step, for_zero, None


def _kept_inside(upstream: Tensor, v: Tensor, low: Any, high: Any) -> Tensor:
    """upstream where low < v < high, and 0 elsewhere."""
    if isinstance(low, Tensor) and low.ndim == 0 and low.device.type == "cpu":  # a number: no device is waited for
        low, high = float(low), float(high)
    if isinstance(low, Tensor):
        return upstream.masked_fill((v <= low) | (v >= high), 0)
    return torch.ops.aten.hardtanh_backward(upstream, v, low, high)
