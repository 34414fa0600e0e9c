"""What only a kept part of a transformer block would have read: on recall it is not computed.

Between a block's streams and its parts stand norms, modulated by what adaLN projects from the time. Where a part is
recalled nobody reads its norm: it is given no tokens, which modulation leaves as they are. The projection's rows for
scale and shift are not multiplied either; the gates stay alive. Only blocks whose code is known are treated so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from parediff.models.diffusion.classes import BasicTransformerBlock
from parediff.reuse.replacements import Cell, Patch, Put, StandIn

JOINT = {"attn": ("norm1", "norm1_context"), "ff": ("norm2",), "ff_context": ("norm2_context",)}
SINGLE = {"proj_out": ("norm",)}
NORMS: dict[str, Mapping[str, tuple[str, ...]]] = {
    "FluxTransformerBlock": JOINT,
    "ChromaTransformerBlock": JOINT,
    "JointTransformerBlock": JOINT,
    "FluxSingleTransformerBlock": SINGLE,
    "ChromaSingleTransformerBlock": SINGLE,
}
"""Block, part, and the norms that it alone reads."""
MODULATED = ("AdaLayerNormZero", "AdaLayerNormZeroSingle")
KNOWN = (*MODULATED, "AdaLayerNormContinuous", "LayerNorm", "FP32LayerNorm")
KNOWN_OF_CHROMA = tuple(f"Chroma{name}Pruned" for name in KNOWN)
SCALES = {"attention": (0, 1), "mlp": (3, 4)}
"""Of the six rows of adaLN-Zero (shift, scale, gate; twice): those that modulate. A single stream has three."""


class NoTokens(StandIn):
    """No token of any image."""

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        return x[:, :0]


class GateRows(StandIn):
    """adaLN's projection with zeros for what nobody reads."""

    without_attention = False
    without_mlp = False

    def __init__(self, cell: Cell, linear: nn.Linear, chunks: int) -> None:
        super().__init__(cell)
        self._linear, self.chunks = (linear,), chunks

    @property
    def unread(self) -> tuple[int, ...]:
        return SCALES["attention"] * self.without_attention + SCALES["mlp"] * self.without_mlp

    @property
    def left_out(self) -> float:  # type: ignore[override]
        return len(self.unread) / self.chunks

    def forward(self, embedding: Tensor) -> Tensor:
        linear, unread = self._linear[0], self.unread
        width = linear.out_features // self.chunks
        output = embedding.new_zeros(*embedding.shape[:-1], linear.out_features)
        for read, group in groupby(range(self.chunks), lambda chunk: chunk not in unread):
            rows = list(group)
            part = slice(rows[0] * width, (rows[-1] + 1) * width)
            if read:
                output[..., part] = F.linear(embedding, linear.weight[part], linear.bias[part])
        return output


@dataclass(frozen=True)
class Unread:
    """The norms of one block, and the stand-ins for adaLN's projections, which its parts share."""

    norms: Mapping[str, tuple[str, ...]]
    block: nn.Module
    rows: Mapping[str, GateRows]

    @classmethod
    def of(cls, block: nn.Module) -> Unread:
        norms = _norms(block)
        return cls(
            norms, block, {name: rows for name in ("norm1", "norm1_context", "norm") if (rows := _rows(block, name))}
        )

    def by(self, part: str) -> list[Put | Patch]:
        """What changes where this part is recalled."""
        changes: list[Put | Patch] = []
        for name in self.norms.get(part, ()):
            norm = self.block.get_submodule(name)
            inner = getattr(norm, "norm", None)
            place = (norm, "norm") if isinstance(inner, nn.Module) else (self.block, name)
            changes.append(Put(*place, NoTokens(Cell())))
            changes += self._scales(name)
        return changes

    def _scales(self, norm: str) -> list[Put | Patch]:
        """`norm1` projects also for the second norm of its stream, whichever number that has."""
        first = norm.replace("norm2", "norm1").replace("norm3", "norm1")
        if first not in self.rows:
            return []
        rows, owner = self.rows[first], self.block.get_submodule(first)
        return [
            Put(owner, "linear", rows),
            Patch(rows, "without_attention" if norm == first else "without_mlp", True),
        ]


def _norms(block: Any) -> Mapping[str, tuple[str, ...]]:
    """Those that may be left out: of known blocks, and none that another method has put something around."""
    found = _basic(block) if type(block) is BasicTransformerBlock else NORMS.get(type(block).__name__, {})
    return {part: names for part, names in found.items() if all(_is_known(block, name) for name in names)}


def _basic(block: Any) -> Mapping[str, tuple[str, ...]]:
    """diffusers' common block, in the two forms that transformers for images use."""
    if getattr(block, "pos_embed", None) is not None:
        return {}
    if block.norm_type == "ada_norm_single":
        return {"attn1": ("norm1",), "ff": ("norm2",)}
    if block.norm_type == "ada_norm_zero":
        return {"attn1": ("norm1",), "ff": ("norm3",)}
    return {}


def _is_known(block: nn.Module, name: str) -> bool:
    return type(getattr(block, name, None)).__name__ in KNOWN + KNOWN_OF_CHROMA


def _rows(block: nn.Module, name: str) -> GateRows | None:
    norm = getattr(block, name, None)
    linear = getattr(norm, "linear", None)
    if type(norm).__name__ not in MODULATED or type(linear) is not nn.Linear or linear.bias is None:
        return None
    return GateRows(Cell(), linear, 3 if name == "norm" else 6)
