"""DeepCache's cut: everything inside one up-block position of a UNet is kept as the one feature that enters it.

Positions are counted from the output: position m is the up-block layer that takes skip m, where skip 0 comes from
`conv_in` and skip m from the m-th layer or downsampler after it. A partial step runs `conv_in`, the down path up to
skip m, the up path from position m outward, and `conv_out` (arXiv 2312.00858, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from parediff.errors import RequestError
from parediff.models.diffusion.classes import ResnetBlock2D
from parediff.reuse.replacements import Cell, Cut, Put, StandIn


class Nothing(StandIn):
    """An empty vector, which torch.cat leaves out: nobody reads what comes from here."""

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        return _nothing(x)


class NothingBranch(StandIn):
    """The same in the place of a `Transformer2DModel`."""

    def forward(self, x: Tensor, *_: Any, **__: Any) -> tuple[Tensor]:
        return (_nothing(x),)


class Zero(StandIn):
    """One zero: a skip that nobody reads, to which a ControlNet may still add what it made for it."""

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        return _zero(x)


class ZeroBranch(StandIn):
    """The same in the place of a `Transformer2DModel`."""

    def forward(self, x: Tensor, *_: Any, **__: Any) -> tuple[Tensor]:
        return (_zero(x),)


class ZeroDown(StandIn):
    """In the place of a down block that gives `outputs` skips."""

    def __init__(self, cell: Cell, outputs: int) -> None:
        super().__init__(cell)
        self.outputs = outputs

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        zero = _zero(hidden_states)
        return zero, (zero,) * self.outputs


class NothingInside(StandIn):
    """In the place of an up block; the network reads how many skips it takes."""

    def __init__(self, cell: Cell, resnets: int) -> None:
        super().__init__(cell)
        self.resnets = range(resnets)
        self.has_cross_attention = False

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        return _nothing(hidden_states)


class _Addend(Tensor):
    """An empty vector to which something may be added: what comes out is that alone."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.add, Tensor.add, Tensor.__add__):
            return next(value for value in args if not isinstance(value, cls))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


class NothingButAdded(StandIn):
    """In the place of the middle: nothing, or what a ControlNet adds to it, which nobody reads either."""

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        return _nothing(x).as_subclass(_Addend)


class KeepEntry(StandIn):
    """The layer at position m: keeps the first `width` channels of its input, the feature without its skip."""

    def __init__(self, cell: Cell, inner: nn.Module, width: int) -> None:
        super().__init__(cell, inner)
        self.width = width

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.cell.tensor = x[:, : self.width].clone()
        return self.compute(x, *args, **kwargs)


class RecallEntry(StandIn):
    """The layer at position m on the kept feature and the live skip, the last `width` channels of what reaches it."""

    left_out = 0.0

    def __init__(self, cell: Cell, inner: nn.Module, width: int) -> None:
        super().__init__(cell, inner)
        self.width = width

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self.compute(torch.cat([self.kept(), x[:, -self.width :]], dim=1), *args, **kwargs)


def _nothing(x: Tensor) -> Tensor:
    return x.new_empty(0)


def _zero(x: Tensor) -> Tensor:
    return x.new_zeros(1, 1, 1, 1)


@dataclass(frozen=True)
class Producer:
    """What makes a skip: a layer and the attention behind it, or a downsampler."""

    owner: Any
    lists: tuple[str, ...]
    row: int
    channels: int


def outer_ring(denoiser: nn.Module, branch: int) -> Cut:
    """The cut at up-block position `branch`."""
    unet = _checked(denoiser)
    producers = [producer for block in unet.down_blocks for producer in _producers(block)]
    if not 0 <= branch <= len(producers):
        raise RequestError("branch", branch, f"0 to {len(producers)}, the skips of this network, are accepted")
    cell = Cell()
    owner, row = _position(unet, branch)
    layer = owner.resnets[row]
    skip_channels = _out_channels(unet.conv_in) if branch == 0 else producers[branch - 1].channels
    keep = KeepEntry(cell, layer, layer.in_channels - skip_channels)
    recall = [
        *_shortened_down(unet, branch, cell),
        Put(unet, "mid_block", NothingButAdded(cell) if owner is unet.up_blocks[0] else Zero(cell)),
        *_shortened_up(unet, owner, row, cell),
        Put(owner.resnets, str(row), RecallEntry(cell, layer, skip_channels)),
    ]
    return Cut(f"position {branch}", "ring", cell, [Put(owner.resnets, str(row), keep)], list(recall))


def _checked(denoiser: nn.Module) -> Any:
    """The network, if every block is a plain list of layers with its samplers after it."""
    blocks = [*getattr(denoiser, "down_blocks", []), *getattr(denoiser, "up_blocks", [])]
    plain = all(_is_plain(block) for block in blocks)
    if not blocks or getattr(denoiser, "mid_block", None) is None or not plain:
        accepted = "a UNet with a middle and blocks of ResnetBlock2D alone, without skip convolutions, is accepted"
        raise RequestError("model", type(denoiser).__name__, accepted)
    return denoiser


def _is_plain(block: Any) -> bool:
    layers: Any = getattr(block, "resnets", None) or []
    unskipped = len(layers) > 0 and not hasattr(block, "skip_conv")
    return unskipped and all(isinstance(layer, ResnetBlock2D) for layer in layers)


def _producers(block: Any) -> list[Producer]:
    found = [Producer(block, ("resnets", "attentions"), row, r.out_channels) for row, r in enumerate(block.resnets)]
    if getattr(block, "downsamplers", None):
        found.append(Producer(block, ("downsamplers",), 0, block.resnets[-1].out_channels))
    return found


def _out_channels(conv: Any) -> int:
    return getattr(conv, "layer", conv).out_channels


def _position(unet: Any, branch: int) -> tuple[Any, int]:
    """(up block, its layer) at position `branch`, counted from the output."""
    for block in reversed(unet.up_blocks):
        if branch < len(block.resnets):
            return block, len(block.resnets) - 1 - branch
        branch -= len(block.resnets)
    raise RequestError("branch", branch, "a position of the up path is accepted")


def _shortened_down(unet: Any, branch: int, cell: Cell) -> list[Put]:
    """Nothing in the place of whatever makes a skip deeper than `branch`."""
    puts, made = [], 0
    for row, block in enumerate(unet.down_blocks):
        producers = _producers(block)
        if made >= branch:
            puts.append(Put(unet.down_blocks, str(row), ZeroDown(cell, len(producers))))
        else:
            deep = producers[branch - made :]
            puts += [
                put
                for producer in deep
                for name in producer.lists
                for put in _absent(producer, name, cell, Zero, ZeroBranch)
            ]
        made += len(producers)
    return puts


def _absent(producer: Producer, name: str, cell: Cell, plain: type[StandIn], branch: type[StandIn]) -> list[Put]:
    """What UNets unpack of a `Transformer2DModel` is a tuple; of everything else the tensor itself."""
    modules = getattr(producer.owner, name, None)
    if not modules:
        return []
    kind = branch if hasattr(modules[producer.row], "transformer_blocks") else plain
    return [Put(modules, str(producer.row), kind(cell))]


def _shortened_up(unet: Any, entered: Any, row: int, cell: Cell) -> list[Put]:
    """Nothing in the place of the up path before layer `row` of the block `entered`."""
    puts = []
    for index, block in enumerate(unet.up_blocks):
        if block is entered:
            break
        puts.append(Put(unet.up_blocks, str(index), NothingInside(cell, len(block.resnets))))
    for earlier in range(row):
        producer = Producer(entered, ("resnets", "attentions"), earlier, 0)
        puts += [put for name in producer.lists for put in _absent(producer, name, cell, Nothing, NothingBranch)]
    return puts
