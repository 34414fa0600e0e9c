"""What the time embedding does to each channel, and the smoothing factor S that follows (QNCD, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def added(embedding: Tensor, norm: nn.GroupNorm) -> Tensor:
    """|(emb_c - mu) / sigma * gamma_c|, [B, C]: GroupNorm of an embedding [B, C] that is added before the norm.

    mu and sigma are those of a group's channels; where they are all alike (sigma = 0) the norm removes the embedding.
    """
    grouped = embedding.unflatten(1, (norm.num_groups, -1)).float()
    centred = grouped - grouped.mean(dim=2, keepdim=True)
    normal = centred * (centred.square().mean(dim=2, keepdim=True) + norm.eps).rsqrt()
    return (normal.flatten(1) * (1.0 if norm.weight is None else norm.weight)).abs()


def modulated(scale: Tensor) -> Tensor:
    """|1 + scale_c|, [B, C]: a scale that multiplies after the norm."""
    return (1 + scale).abs()


def bounded(magnitude: Tensor, strength: float = 1.0) -> Tensor:
    """S_c = max(1, magnitude_c) ^ strength: no channel is ever widened, none divided by zero or a negative number."""
    if not bool(torch.isfinite(magnitude).all()):
        raise ValueError("the smoothing factors are not finite: the calibration data holds NaN or infinity")
    return magnitude.clamp_min(1.0).pow(strength)
