"""Some of what a model gives for a workload."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Batch:
    """Outputs of one batch, a row each, all of one seed block.

    `rows` are their places in the workload. `outputs` are drawn images (uint8 NCHW; videos NFCHW), or the classes
    that a classifier named (int64 [B]); `wanted` is what was asked for: conditions, or the true classes. `pictures`
    (uint8 NCHW) are for the eye. A classifier's batch also holds the images it saw, NCHW in [-1, 1], and the network.
    """

    rows: range
    outputs: Tensor
    wanted: tuple[Any, ...] | None
    block: int
    pictures: Tensor
    inputs: Tensor | None = None
    network: nn.Module | None = None


def to_uint8(images: Tensor) -> Tensor:
    """[0, 1] to 0..255, rounded to nearest: what a PNG of the image would hold."""
    return (images.clamp(0, 1) * 255).round().byte()


def frames(images: Tensor) -> Tensor:
    """Images as they are; of videos [B, F, C, H, W] every frame, [B F, C, H, W]."""
    return images.flatten(0, 1) if images.ndim == 5 else images
