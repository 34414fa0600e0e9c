"""Block caching: every attention branch is kept until it has changed enough (Wimbauer et al., arXiv 2312.03209)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from torch import nn

from parediff.methods.base import Method
from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.reuse.change import refreshed, relative_changes
from parediff.reuse.cuts import cuts_of
from parediff.reuse.engine import Reuse, install, installed
from parediff.reuse.learned import Table, attach, attached, table_plan
from parediff.reuse.replacements import Cut
from parediff.validation import NonNegative, Range


@dataclass(frozen=True)
class BlockCache(Method):
    """A schedule for `steps` steps, fixed after measuring each block's relative change on the calibration's calls.

    `threshold` is the change that may add up before a block is computed anew. The paper keeps attention only.
    """

    family: ClassVar[Literal["", "quantisation", "feature reuse"]] = "feature reuse"

    threshold: NonNegative
    steps: Annotated[int, Range(2, 10_000)]
    resnets: Annotated[bool, "whether residual blocks are reused"]
    attentions: Annotated[bool, "whether attentions are reused"]
    mlps: Annotated[bool, "whether feed-forward parts of transformers are reused"]

    def prepare(self, model: DiffusionModel) -> None:
        install(model, Reuse("block_cache", self._cuts, table_plan))
        attach(model.denoiser, Table(len(self._cuts(model.denoiser)), self.steps))

    def calibrate(self, model: DiffusionModel, calls: Iterable[Call]) -> None:
        changes = relative_changes(model, self._cuts, calls, self.steps)
        self._table(model).fresh.copy_(refreshed(changes, self.threshold))

    def finalize(self, model: DiffusionModel) -> None:
        installed(model, "block_cache").tally.reset()

    def fired(self, model: DiffusionModel) -> dict[str, Any]:
        fresh = self._table(model).fresh
        proof = {"blocks": len(fresh), "computed_share": float(fresh.float().mean())}
        return proof | installed(model, "block_cache").tally.shares()

    def _cuts(self, denoiser: nn.Module) -> list[Cut]:
        return cuts_of(denoiser, resnets=self.resnets, attentions=self.attentions, mlps=self.mlps)

    def _table(self, model: DiffusionModel) -> Table:
        return attached(model.denoiser, Table)
