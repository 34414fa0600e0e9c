"""DeepCache: the deep part of a UNet is kept between keyframes, its outer ring runs (Ma et al., arXiv 2312.00858)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import nn

from parediff.methods.base import Method
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.reuse.engine import FULL, Extrapolation, Reuse, Step, install, installed
from parediff.reuse.outer_ring import outer_ring
from parediff.reuse.replacements import Cut
from parediff.reuse.schedules import Center, FirstFull, Interval, Keyframes, LastFull, Power, Schedule
from parediff.validation import Whole


@dataclass(frozen=True)
class DeepCache(Method):
    """Between keyframes only the part outside skip `branch` runs: 0 is the outermost, `conv_in` to the last layer.

    `keyframes` is uniform (every `interval` steps), clustered (around step `center` with `power`), or a list of steps.
    `extrapolation`, after TaylorSeer's first order (arXiv 2503.06923): so large a share of the deep part's last change
    goes on between keyframes.
    """

    family: ClassVar[Literal["", "quantisation", "feature reuse"]] = "feature reuse"

    interval: Interval
    keyframes: Keyframes
    center: Center
    power: Power
    first_full: FirstFull
    last_full: LastFull
    branch: Whole
    extrapolation: Extrapolation = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._schedule()

    def prepare(self, model: DiffusionModel) -> None:
        install(model, Reuse("deepcache", self._cuts, self._plan, extrapolation=self.extrapolation))

    def finalize(self, model: DiffusionModel) -> None:
        installed(model, "deepcache").tally.reset()

    def fired(self, model: DiffusionModel) -> dict[str, Any]:
        return {"branch": self.branch} | installed(model, "deepcache").tally.shares()

    def _cuts(self, denoiser: nn.Module) -> list[Cut]:
        return [outer_ring(denoiser, self.branch)]

    def _plan(self, _: nn.Module, steps: int, __: int) -> Sequence[Step]:
        keyframes = self._schedule().over(steps)
        return [FULL if i in keyframes else Step(frozenset()) for i in range(steps)]

    def _schedule(self) -> Schedule:
        return Schedule(self.keyframes, self.interval, self.center, self.power, self.first_full, self.last_full)
