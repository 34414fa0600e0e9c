"""DeepCache: the deep part of a UNet is kept between keyframes, its outer ring runs (Ma et al., arXiv 2312.00858)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from parediff.methods.keyframed import Keyframed
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.reuse.engine import FULL, Step
from parediff.reuse.outer_ring import outer_ring
from parediff.reuse.replacements import Cut
from parediff.validation import Whole


@dataclass(frozen=True)
class DeepCache(Keyframed):
    """Between keyframes only the part outside skip `branch` runs: 0 is the outermost, `conv_in` to the last layer.

    Where keyframes stand, and what `extrapolation` does to the deep part, is told at `Keyframed`.
    """

    owner: ClassVar[str] = "deepcache"

    branch: Whole

    def fired(self, model: DiffusionModel) -> dict[str, Any]:
        return {"branch": self.branch} | self._reused(model)

    def _cuts(self, denoiser: nn.Module) -> list[Cut]:
        return [outer_ring(denoiser, self.branch)]

    def _plan(self, denoiser: nn.Module, steps: int, cuts: int) -> Sequence[Step]:
        keyframes = self._keyframes(denoiser, steps)
        return [FULL if i in keyframes else Step(frozenset()) for i in range(steps)]
