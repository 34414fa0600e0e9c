"""The mean error of a prediction, its safeguards, and its removal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Granularity = Literal["scalar", "channel", "sample"]
_DIMS: dict[str, tuple[int, ...]] = {"scalar": (0, 1, 2, 3), "channel": (0, 2, 3), "sample": (1, 2, 3)}


@dataclass(frozen=True)
class BiasEstimate:
    """The mean of an error [B, C, H, W] over n elements, as far as it can be told from chance, 1 / sqrt(n).

    `scalar` and `channel` average over the images of the batch, `sample` over each image alone. An estimate below
    `gate` / sqrt(n) counts as 0 (0: no gate). `shrink` multiplies by max(0, 1 - 1 / (n q^2)), James and Stein's factor.
    Guidance's branches are estimated apart, because guidance subtracts them from one another.
    """

    granularity: Granularity
    gate: float
    shrink: bool

    def of(self, error: Tensor, branches: int) -> Tensor:
        """The estimate, broadcastable against the error; the batch holds `branches` equal parts one after another."""
        parts = [self._one(part) for part in error.float().chunk(branches)]
        if len(parts) == 1:
            return parts[0]
        rows = len(error) // branches
        return torch.cat([part.expand(rows, *part.shape[1:]) for part in parts])

    def _one(self, error: Tensor) -> Tensor:
        mean = error.mean(dim=_DIMS[self.granularity], keepdim=True)
        n = error.numel() / mean.numel()
        significant = mean.abs() > self.gate / n**0.5
        if self.shrink:
            mean = mean * (1 - 1 / (n * mean.square()).clamp_min(1e-30)).clamp_min(0)
        return torch.where(significant, mean, torch.zeros_like(mean))
