"""Linear layers in sixteen bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from parediff import DiffusionModel, Method
from parediff.models.tree import replace


class HalfLinear(nn.Module):
    """A linear layer with weights [out, in] and products in 16 bits; what comes out has the type that went in."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.linear = linear.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.to(self.linear.weight.dtype)).to(x.dtype)


@dataclass(frozen=True)
class Half(Method):
    """Weights and products of linear layers in 16 bits: half their bytes, no calibration, no training."""

    dtype: Literal["bfloat16", "float16"]

    def prepare(self, model: DiffusionModel) -> None:
        """Raises ValueError where there is no linear layer."""
        replace(model.denoiser, nn.Linear, lambda linear: HalfLinear(linear, getattr(torch, self.dtype)))

    def fired(self, model: DiffusionModel) -> dict[str, Any]:
        layers = [module for module in model.denoiser.modules() if isinstance(module, HalfLinear)]
        return {"layers": len(layers), "dtype": self.dtype}
