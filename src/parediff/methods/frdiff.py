"""FRDiff: feature reuse between keyframes, jumps, and a mixture of both (So et al., ECCV 2024, arXiv 2312.03517)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from torch import nn

from parediff.methods.keyframed import Keyframed
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.reuse.cuts import Blocks, cuts_of
from parediff.reuse.engine import FULL, Step
from parediff.reuse.mixing import Bias, Mixing, Shape, Temperature
from parediff.reuse.replacements import Cut


@dataclass(frozen=True)
class FRDiff(Keyframed):
    """At keyframes the network runs in full; between them it reuses features, or is not called at all.

    `mixing`, `temperature` and `bias` shape the weight of feature reuse against the jump. `resnets`, `attentions` and
    `mlps` say what is reused; `mlps` are those of transformers, of which `blocks` can keep whole ones. Where keyframes
    stand is told at `Keyframed`; the paper's `extrapolation` is 0.
    """

    owner: ClassVar[str] = "frdiff"

    mixing: Annotated[Shape, "how the weight of reuse against the jump goes over the steps"]
    temperature: Temperature
    bias: Bias
    resnets: Annotated[bool, "whether residual blocks are reused"]
    attentions: Annotated[bool, "whether attentions are reused"]
    mlps: Annotated[bool, "whether feed-forward parts of transformers are reused"]
    blocks: Blocks

    def __post_init__(self) -> None:
        super().__post_init__()
        self._mixing()

    def fired(self, model: DiffusionModel) -> dict[str, Any]:
        cuts = self._cuts(model.denoiser)
        kinds = sorted({cut.kind for cut in cuts})
        found = {f"{kind}_cuts": sum(cut.kind == kind for cut in cuts) for kind in kinds}
        return found | self._reused(model)

    def _cuts(self, denoiser: nn.Module) -> list[Cut]:
        return cuts_of(denoiser, resnets=self.resnets, attentions=self.attentions, mlps=self.mlps, blocks=self.blocks)

    def _plan(self, denoiser: nn.Module, steps: int, cuts: int) -> Sequence[Step]:
        keyframes, mixing = self._keyframes(denoiser, steps), self._mixing()
        return [FULL if i in keyframes else Step(frozenset(), mixing(i / steps)) for i in range(steps)]

    def _mixing(self) -> Mixing:
        return Mixing(self.mixing, self.temperature, self.bias)
