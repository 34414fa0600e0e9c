"""A classifier whose weights are rounded wherever they are read: DFAKD's student before there is a real one."""

from __future__ import annotations

import copy

from torch import Tensor, nn
from torch.nn.utils import parametrize

from parediff.quantization.arithmetic import fake_quantize
from parediff.quantization.grid import Grid
from parediff.quantization.samples import extremes


class MinMaxRounding(nn.Module):
    """A weight [out, ...] on an affine grid between the least and the largest value of every output channel."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.grid = Grid(bits, "affine")

    def forward(self, weight: Tensor) -> Tensor:
        rows = weight.detach().flatten(1)
        step, zero_point = self.grid.fit(*extremes(rows))
        shape = (-1,) + (1,) * (weight.ndim - 1)
        return fake_quantize(
            weight, step.view(shape), None if zero_point is None else zero_point.view(shape), self.grid
        )


def rounded_copy(network: nn.Module, bits: int) -> nn.Module:
    """Learns through the rounding; BatchNorm's statistics stay as they are."""
    student = copy.deepcopy(network).eval().requires_grad_(True)
    for module in student.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            parametrize.register_parametrization(module, "weight", MinMaxRounding(bits))
    return student
