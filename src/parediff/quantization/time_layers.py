"""Layers that depend on the time step only, computed once per sampler step (tdq.md, section 2.1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from parediff.errors import RequestError
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.tree import named, put
from parediff.quantization.time_context import TimeContext, time_context_of

PROJECTION = "time_emb_proj"


class CachedProjection(nn.Module):
    """A residual block's time projection as a table over the context's steps; its argument is not looked at."""

    table: Tensor

    def __init__(self, context: TimeContext, table: Tensor) -> None:
        super().__init__()
        self._context = (context,)
        self.register_buffer("table", table, persistent=False)

    def deployed(self) -> dict[str, tuple[Tensor, float]]:
        """The table, with its bits."""
        return {"table": (self.table, 8.0 * self.table.element_size())}

    def forward(self, embedding: Tensor) -> Tensor:
        """[B, channels]."""
        rows = self._context[0].look_up(self.table)
        return rows.expand(len(embedding), -1).to(embedding.dtype)


@torch.no_grad()
def cache_time_layers(model: DiffusionModel) -> list[str]:
    """Replace every time projection by its table; the paths. Raises where the embedding holds more than time."""
    denoiser: Any = model.denoiser
    extra = [name for name in ("class_embedding", "add_embedding") if getattr(denoiser, name, None) is not None]
    found = list(named(denoiser, lambda path, _: path.rpartition(".")[2] == PROJECTION))
    if extra or not found or not hasattr(denoiser, "time_embedding"):
        raise RequestError("time_layers", "cached", f"computed is accepted: {model.name}'s embedding is not of t alone")
    context = time_context_of(denoiser)
    tables: dict[str, list[Tensor]] = {path: [] for path, _ in found}
    for t in context.known.reshape(-1, 1):
        context.enter(t)  # the embedding's own layers may have intervals that depend on it
        activated = nn.functional.silu(denoiser.time_embedding(denoiser.time_proj(t).to(model.dtype)))
        for path, projection in found:
            tables[path].append(projection(activated))
    for path, rows in tables.items():
        put(denoiser, path, CachedProjection(context, torch.cat(rows)))
    return [path for path, _ in found]
