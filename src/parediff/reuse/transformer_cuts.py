"""Where a transformer is cut for feature reuse, by role: what a block adds to its stream, before it is gated.

attention      the output of every attention of a block; the projections, norms and gates outside stay alive
feed-forward   the output of every feed-forward of a block, of both streams where there are two
single stream  attention and feed-forward that share one projection are kept as its output, together
whole, stack   what a block, or all blocks of one list, add to the streams (time conditioning frozen with it)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal

from torch import Tensor, nn

from parediff.errors import RequestError
from parediff.models.diffusion.attention import is_attention
from parediff.models.diffusion.blocks import streams_of
from parediff.reuse.replacements import Cell, Cut, Keep, KeepTurns, NoBatch, Patch, Put, Recall, RecallTurns, StandIn
from parediff.reuse.unread import Unread

ATTENTION, MLP, BRANCH, WHOLE = "attention", "mlp", "branch", "block"
Streams = tuple[Tensor | None, ...]
Blocks = Literal["parts", "whole", "stack"]
FEED_FORWARD = re.compile(r"ff|ffn|ff_context|feed_forward|mlp|\w+_mlp|mlp_context|channelwise")
"""What diffusers calls the feed-forward of a block; `proj_mlp` is half of one."""


def blocks_of(denoiser: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(path, block) of every transformer block in the lists of a network: what holds an attention of its own."""
    for name, blocks in denoiser.named_children():
        if isinstance(blocks, nn.ModuleList):
            for path, module in blocks.named_modules(prefix=name):
                if not is_attention(module) and any(is_attention(child) for child in module.children()):
                    yield path, module


def transformer_cuts(denoiser: nn.Module, *, attentions: bool, mlps: bool) -> Iterator[Cut]:
    """The cuts of every block's parts."""
    inside = [path for path, _ in blocks_of(denoiser)]
    for path, block in blocks_of(denoiser):
        unread = Unread.of(block)
        if attentions and mlps and _is_single_stream(block):
            yield _branch(path, block, unread)
            continue
        for name, child in block.named_children():
            if (attentions and is_attention(child)) or (mlps and _is_feed_forward(name)):
                cut = _part(f"{path}.{name}", block, name, ATTENTION if is_attention(child) else MLP)
                cut.recall += unread.by(name)
                yield cut
    if mlps:
        yield from _lone_feed_forwards(denoiser, inside)


def _is_feed_forward(name: str) -> bool:
    return FEED_FORWARD.fullmatch(name) is not None


def _is_single_stream(block: Any) -> bool:
    return hasattr(block, "proj_mlp") and hasattr(block, "proj_out")


def _lone_feed_forwards(denoiser: nn.Module, inside: list[str]) -> Iterator[Cut]:
    """Feed-forwards of blocks that hold no attention, as Stable Cascade's residual blocks."""
    for path, module in denoiser.named_modules():
        if path not in inside and hasattr(module, "channelwise"):
            yield _part(f"{path}.channelwise", module, "channelwise", MLP)


def _part(path: str, block: nn.Module, name: str, kind: str) -> Cut:
    """One module of a block; a module that a block calls for each of its streams in turn keeps all of its outputs."""
    cell, inner = Cell(), block.get_submodule(name)
    return Cut(path, kind, cell, [Put(block, name, KeepTurns(cell, inner))], [Put(block, name, RecallTurns(cell))])


class _KeepShape(StandIn):
    """Calls the module, and remembers what its output looks like."""

    def __init__(self, cell: Cell, inner: nn.Module) -> None:
        super().__init__(cell, inner)
        self.hollow: Any = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self.compute(*args, **kwargs)
        parts = output if isinstance(output, tuple) else (output,)
        hollow = tuple(part[:0].detach() for part in parts)
        self.hollow = hollow if isinstance(output, tuple) else hollow[0]
        return output


class _Hollow(StandIn):
    """No image of the batch, and no token where there are none before it, in the shape that the module's output had."""

    def __init__(self, cell: Cell, shape: _KeepShape, *, tokens: bool) -> None:
        super().__init__(cell)
        self._shape, self.tokens = (shape,), tokens  # the shape is no child: it stands elsewhere

    def forward(self, *_: Any, **__: Any) -> Any:
        hollow = self._shape[0].hollow
        return hollow if self.tokens else hollow[:, :0]


def _branch(path: str, block: Any, unread: Unread) -> Cut:
    """Attention and feed-forward side by side: what their shared projection gives, before the gate."""
    cell = Cell()
    name = next(name for name, child in block.named_children() if is_attention(child))
    shape = _KeepShape(cell, block.get_submodule(name))
    keep: list[Put | Patch] = [Put(block, name, shape), Put(block, "proj_out", Keep(cell, block.proj_out))]
    left_out = unread.by("proj_out")
    recall: list[Put | Patch] = [
        Put(block, name, _Hollow(cell, shape, tokens=not left_out)),
        Put(block, "proj_mlp", NoBatch(cell)),
        Put(block, "proj_out", Recall(cell)),
        *left_out,
    ]
    return Cut(f"{path}.proj_out", BRANCH, cell, keep, recall)


def block_cuts(denoiser: nn.Module, blocks: Blocks) -> Iterator[Cut]:
    """One cut a block, or one a list of blocks: what it adds to every stream."""
    for name, children in denoiser.named_children():
        if not isinstance(children, nn.ModuleList):
            continue
        rows = [i for i, block in enumerate(children) if any(is_attention(child) for child in block.children())]
        if rows and len(rows) != len(children):
            raise RequestError("blocks", blocks, f"parts is accepted: not all of {name} are transformer blocks")
        groups = [rows] if blocks == "stack" else [[row] for row in rows]
        yield from (_whole(name, children, group) for group in groups if group)


def _whole(name: str, blocks: nn.ModuleList, rows: list[int]) -> Cut:
    cell = Cell()
    first, last = rows[0], rows[-1]
    entry = _Entry(cell, blocks[first], alone=first == last)
    keep: list[Put | Patch] = [Put(blocks, str(first), entry)]
    if last != first:
        keep.append(Put(blocks, str(last), _Exit(cell, blocks[last], entry)))
    recall: list[Put | Patch] = [Put(blocks, str(first), _AddKept(cell, blocks[first]))]
    recall += [Put(blocks, str(row), _PassOn(cell, blocks[row])) for row in rows[1:]]
    path = f"{name}.{first}" if first == last else f"{name}.{first}-{last}"
    return Cut(path, WHOLE, cell, keep, recall)


class _Streams(StandIn):
    """A stand-in that knows which arguments of a block its outputs go on from."""

    def __init__(self, cell: Cell, inner: nn.Module) -> None:
        super().__init__(cell)
        self._block = (inner,)

    def __getattr__(self, name: str) -> Any:
        """Networks read what belongs to their blocks, as DiT does its first one's time embedding."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_block"][0], name)

    def entering(self, args: Any, kwargs: Any, outputs: int) -> Streams:
        return streams_of(self._block[0], args, kwargs, outputs)


class _Exit(_Streams):
    """Calls the last block, and keeps what all of them added since the first was entered."""

    def __init__(self, cell: Cell, inner: nn.Module, entry: _Entry | None) -> None:
        super().__init__(cell, inner)
        self._entry = (entry,)  # not a child: it stands elsewhere

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self._block[0](*args, **kwargs)
        return self.keep(output)

    def keep(self, output: Any) -> Any:
        parts = output if isinstance(output, tuple) else (output,)
        entry: Any = self._entry[0] or self
        before = entry.entering(*entry.entered, len(parts))
        self.cell.put(tuple(_minus(out, x) for out, x in zip(parts, before, strict=True)))
        if self.cell.gate is None:
            return output
        return _sum(before, self.kept(), single=not isinstance(output, tuple))


class _Entry(_Exit):
    """Calls the first block and remembers what entered it; of a single one, keeps what it added."""

    def __init__(self, cell: Cell, inner: nn.Module, *, alone: bool) -> None:
        super().__init__(cell, inner, None)
        self.entered: tuple[Any, Any] = ((), {})
        self.alone = alone

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.entered = args, kwargs
        output = self._block[0](*args, **kwargs)
        return self.keep(output) if self.alone else output


class _AddKept(_Streams):
    """What entered, and what was kept on top of it."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        kept: Any = self.kept()
        return _sum(self.entering(args, kwargs, len(kept)), kept, single=len(kept) == 1)


class _PassOn(_Streams):
    """What entered."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        kept: Any = self.kept()
        streams = self.entering(args, kwargs, len(kept))
        return streams[0] if len(kept) == 1 else streams


def _sum(streams: Streams, kept: Any, *, single: bool) -> Any:
    parts = tuple(_plus(x, added) for x, added in zip(streams, kept, strict=True))
    return parts[0] if single else parts


def _minus(out: Tensor | None, x: Tensor | None) -> Tensor | None:
    return None if out is None or x is None else out - x


def _plus(x: Tensor | None, added: Tensor | None) -> Tensor | None:
    return None if x is None or added is None else x + added
