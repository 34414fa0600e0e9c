"""FRDiff: feature reuse between keyframes, jumps, and a mixture of both (So et al., ECCV 2024, arXiv 2312.03517)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from torch import nn

from parediff.methods.base import Method
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.reuse.cuts import Blocks, cuts_of
from parediff.reuse.engine import FULL, Extrapolation, Reuse, Step, install, installed
from parediff.reuse.mixing import Bias, Mixing, Shape, Temperature
from parediff.reuse.replacements import Cut
from parediff.reuse.schedules import Center, FirstFull, Interval, Keyframes, LastFull, Power, Schedule


@dataclass(frozen=True)
class FRDiff(Method):
    """At keyframes the network runs in full; between them it reuses features, or is not called at all.

    `keyframes` is uniform (every `interval` steps), clustered (around step `center` with `power`), or a list of steps.
    `mixing`, `temperature` and `bias` shape the weight of feature reuse against the jump. `resnets`, `attentions` and
    `mlps` say what is reused; `mlps` are those of transformers, of which `blocks` can keep whole ones. The first
    `first_full`, the last `last_full` are full. `extrapolation`, after TaylorSeer's first order (arXiv 2503.06923): so
    large a share of each feature's change from the keyframe before to the last one goes on between keyframes; 0, the
    paper's, gives features back as they were.
    """

    family: ClassVar[Literal["", "quantisation", "feature reuse"]] = "feature reuse"

    interval: Interval
    keyframes: Keyframes
    center: Center
    power: Power
    first_full: FirstFull
    last_full: LastFull
    mixing: Annotated[Shape, "how the weight of reuse against the jump goes over the steps"]
    temperature: Temperature
    bias: Bias
    resnets: Annotated[bool, "whether residual blocks are reused"]
    attentions: Annotated[bool, "whether attentions are reused"]
    mlps: Annotated[bool, "whether feed-forward parts of transformers are reused"]
    blocks: Blocks
    extrapolation: Extrapolation = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._schedule()
        self._mixing()

    def prepare(self, model: DiffusionModel) -> None:
        install(model, Reuse("frdiff", self._cuts, self._plan, extrapolation=self.extrapolation))

    def finalize(self, model: DiffusionModel) -> None:
        installed(model, "frdiff").tally.reset()

    def fired(self, model: DiffusionModel) -> dict[str, Any]:
        cuts = self._cuts(model.denoiser)
        kinds = sorted({cut.kind for cut in cuts})
        found = {f"{kind}_cuts": sum(cut.kind == kind for cut in cuts) for kind in kinds}
        return found | installed(model, "frdiff").tally.shares()

    def _cuts(self, denoiser: nn.Module) -> list[Cut]:
        return cuts_of(denoiser, resnets=self.resnets, attentions=self.attentions, mlps=self.mlps, blocks=self.blocks)

    def _plan(self, _: nn.Module, steps: int, __: int) -> Sequence[Step]:
        keyframes, mixing = self._schedule().over(steps), self._mixing()
        return [FULL if i in keyframes else Step(frozenset(), mixing(i / steps)) for i in range(steps)]

    def _schedule(self) -> Schedule:
        return Schedule(self.keyframes, self.interval, self.center, self.power, self.first_full, self.last_full)

    def _mixing(self) -> Mixing:
        return Mixing(self.mixing, self.temperature, self.bias)
