"""Rounding that is learned: AdaRound (Nagel et al., arXiv 2004.10568), as Q-Diffusion and BRECQ use it; GENIE-M's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from parediff.quantization.grid import Grid
from parediff.quantization.layers import QuantizedLayer, SplitQuantizedLayer
from parediff.quantization.quantizer import Quantizer
from parediff.quantization.sources import Learned

STRETCH, SHIFT = 1.2, 0.1


def rectified_sigmoid(v: Tensor) -> Tensor:
    """h(V) = clip(1.2 sigmoid(V) - 0.1, 0, 1)."""
    return (STRETCH * v.sigmoid() - SHIFT).clamp(0, 1)


def inverse_rectified_sigmoid(share: Tensor) -> Tensor:
    """V with h(V) = share, for 0 <= share < 1."""
    return -torch.log(STRETCH / (share + SHIFT) - 1)


class RoundedQuantizer(Quantizer):
    """A weight's quantiser that rounds each weight down or up as `v` says: up where v >= 0.

    Until `start` was called it rounds to nearest. While `soft`, What = D (clip(floor(W / D) + h(V), low, high)) is
    differentiable in V. `joint`: the step is learned beside V, on the base floor(W / D_0) of the step at the start, so
    that the problem in V stays the same while D moves (GENIE-M, arXiv 2212.04780).
    """

    v: Tensor
    learned: Tensor
    base: Tensor | None

    def __init__(
        self, grid: Grid, shape: torch.Size, *, axis: int | None, channels: int | None, joint: bool = False
    ) -> None:
        source = Learned(channels, zero_point=grid.has_zero_point) if joint else None
        super().__init__(grid, axis=axis, channels=channels, source=source)
        self.register_buffer("v", torch.zeros(shape))
        self.register_buffer("base", torch.zeros(shape) if joint else None)
        self.register_buffer("learned", torch.zeros((), dtype=torch.bool))
        self.soft = False

    @torch.no_grad()
    def start(self, weight: Tensor) -> None:
        """h(V) = the fractional part of W / D: soft rounding returns W itself, hard rounding the nearest."""
        step, _ = self.parameters_for(weight)
        scaled = weight.float() / step
        self.v.copy_(inverse_rectified_sigmoid(scaled - scaled.floor()))
        if self.base is not None:
            self.base.copy_(scaled.floor())
        self.learned.fill_(True)

    @torch.no_grad()
    def forget(self) -> None:
        """Back to rounding to nearest."""
        self.learned.fill_(False)

    @property
    def share(self) -> Tensor:
        """h(V)."""
        return rectified_sigmoid(self.v)

    def rounded(self, x: Tensor) -> Tensor:
        if not bool(self.learned):
            return super().rounded(x)
        codes, step, zero = self._codes(x)
        return ((codes - zero) * step).to(x.dtype)

    def codes(self, x: Tensor) -> Tensor:
        """The integers, hard."""
        return self._codes(x)[0].to(torch.int32) if bool(self.learned) else super().codes(x)

    def _codes(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        step, zero_point = self.parameters_for(x)
        up = self.share if self.soft else (self.v >= 0).float()
        zero = torch.zeros_like(step) if zero_point is None else zero_point
        base = (x.float() / step).floor() if self.base is None else self.base
        codes = (base + up + zero).clamp(self.grid.low, self.grid.high)
        return codes, step, zero


def install_rounding(root: nn.Module, *, joint: bool) -> None:
    """Give every weight that is rounded a RoundedQuantizer; nothing is calibrated yet."""
    for module in root.modules():
        if isinstance(module, QuantizedLayer):
            module.weight_quantizer = _rounder(module.weight_quantizer, module.weight, joint=joint)
        elif isinstance(module, SplitQuantizedLayer):
            parts = [_rounder(quantizer, part, joint=joint) for quantizer, part in module.weight_parts()]
            module.weight_quantizers = nn.ModuleList(parts)


def _rounder(quantizer: Quantizer, weight: Any, *, joint: bool) -> Quantizer:
    if quantizer.grid.identity:
        return quantizer
    groups = {"axis": quantizer.axis, "channels": quantizer.channels}
    made = RoundedQuantizer(quantizer.grid, weight.shape, **groups, joint=joint)
    return made.to(weight.device).requires_grad_(False)


@contextmanager
def softly(quantizers: list[RoundedQuantizer]) -> Iterator[list[nn.Parameter]]:
    """The quantisers' V as parameters, rounding softly, while the block runs."""
    parameters = []
    for quantizer in quantizers:
        quantizer.soft = True
        parameter = nn.Parameter(quantizer.v.clone())
        del quantizer.v
        quantizer.register_parameter("v", parameter)
        parameters.append(parameter)
    try:
        yield parameters
    finally:
        for quantizer, parameter in zip(quantizers, parameters, strict=True):
            quantizer.soft = False
            _unregister(quantizer)
            quantizer.register_buffer("v", parameter.detach().clone())


def _unregister(quantizer: Any) -> None:
    del quantizer._parameters["v"]
