"""Modules that stand in for others during one call of the network: they keep a tensor, or give it back.

Between calls the network is the plain one: nothing is left in its tree, its state_dict or its forwards. A module that
is stood in for is not called, so that its hooks do not fire and it costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


class Cell:
    """What is kept, exactly as it was computed; under a gate a, a · computed + (1 - a) · kept before.

    A tensor, or a tuple of tensors where a module gives several; `turn` counts the calls of a module in one of the
    network, whose outputs are then kept in their order. `spent` is what an earlier keyframe left: nobody reads it, and
    it is let go where its successor is put, so that memory passes from one to the next. Let go all at once it would
    go back to the system, and every page of it would be asked for again.
    """

    def __init__(self) -> None:
        self.tensor: Any = None
        self.spent: Any = None
        self.gate: Tensor | None = None
        self.turn = 0

    def put(self, computed: Any) -> None:
        before = self.tensor
        self.tensor = computed if self.gate is None or before is None else _blend(self.gate, computed, before)
        self.spent = None


def _blend(gate: Tensor, computed: Any, before: Any) -> Any:
    if isinstance(computed, tuple):
        if not isinstance(before, tuple):  # nothing was kept yet
            return computed
        return tuple(_blend(gate, *pair) for pair in zip(computed, before, strict=True))
    return None if computed is None else gate * computed + (1 - gate) * before


class StandIn(nn.Module):
    """A module in the place of another one; whatever it holds belongs to one sampling run.

    `left_out` is the share of the other one's work that is not done where this recalls.
    """

    left_out = 1.0

    def __init__(self, cell: Cell, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.cell, self.inner = cell, inner
        self.eval()

    def compute(self, *args: Any, **kwargs: Any) -> Any:
        """What the module in whose place this stands gives."""
        assert self.inner is not None
        return self.inner(*args, **kwargs)

    def kept(self) -> Any:
        assert self.cell.tensor is not None
        return self.cell.tensor


class Keep(StandIn):
    """Calls the module and keeps its output."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        self.cell.put(self.compute(*args, **kwargs))
        return self.kept()


class Recall(StandIn):
    """The kept output."""

    def forward(self, *_: Any, **__: Any) -> Tensor:
        return self.kept()


class KeepTurns(StandIn):
    """Calls the module and keeps its output, whatever it is made of, for each of its calls in one of the network."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output, turn = self.compute(*args, **kwargs), self.cell.turn
        self.cell.turn += 1
        before = self.cell.tensor if isinstance(self.cell.tensor, tuple) else ()
        if self.cell.gate is not None and turn < len(before):
            output = _blend(self.cell.gate, output, before[turn])
        self.cell.tensor = (*before[:turn], output, *before[turn + 1 :])
        self.cell.spent = None
        return output


class RecallTurns(StandIn):
    """The outputs kept, one a call."""

    def forward(self, *_: Any, **__: Any) -> Any:
        turn = self.cell.turn
        self.cell.turn += 1
        return self.kept()[turn]


class NoBatch(StandIn):
    """No image of the batch: what follows up to the next recall works on nothing."""

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        return x[:0]


class Same(StandIn):
    """The input."""

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        return x


class KeepBranch(StandIn):
    """A `Transformer2DModel` whose skip was patched out: keeps the branch and adds the skip as the block would."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor]:
        kwargs["return_dict"] = False
        self.cell.put(self.compute(hidden_states, *args, **kwargs)[0])
        return (self.kept() + hidden_states,)


class RecallBranch(StandIn):
    """The kept branch of a `Transformer2DModel`, and the skip alive."""

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor]:
        return (self.kept() + hidden_states,)


class KeepResidual(StandIn):
    """An `Attention` whose residual was patched out: (attention(x) + x) / rescale, keeping the attention alone."""

    def __init__(self, cell: Cell, inner: nn.Module, rescale: float) -> None:
        super().__init__(cell, inner)
        self.rescale = rescale

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.cell.put(self.compute(hidden_states, *args, **kwargs))
        return (self.kept() + hidden_states) / self.rescale


class RecallResidual(StandIn):
    """(kept + x) / rescale."""

    def __init__(self, cell: Cell, rescale: float) -> None:
        super().__init__(cell)
        self.rescale = rescale

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        return (self.kept() + hidden_states) / self.rescale


@dataclass(frozen=True)
class Put:
    """`module` in the place of the child `name` of `owner`."""

    owner: nn.Module
    name: str
    module: nn.Module


@dataclass(frozen=True)
class Patch:
    """`value` in the place of the attribute `name` of `owner`."""

    owner: nn.Module
    name: str
    value: Any


@dataclass
class Cut:
    """A place in the network whose tensor is kept at one step and given back at another."""

    path: str
    kind: str
    cell: Cell
    keep: list[Put | Patch]
    recall: list[Put | Patch] = field(default_factory=list)


@contextmanager
def standing_in(changes: Iterable[Put | Patch]) -> Iterator[None]:
    """The network with every change in place; as before afterwards, whatever happened."""
    undo: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for change in changes:
            if isinstance(change, Put):
                table, value = change.owner._modules, change.module
            else:
                table, value = change.owner.__dict__, change.value
            undo.append((table, change.name, table.get(change.name, _ABSENT)))
            table[change.name] = value
        yield
    finally:
        for table, name, before in reversed(undo):
            if before is _ABSENT:
                del table[name]
            else:
                table[name] = before


_ABSENT = object()


def tensors_of(cuts: Iterable[Cut]) -> list[Any]:
    """What the cells hold; the cells are empty afterwards."""
    held = []
    for cut in cuts:
        held.append(cut.cell.tensor)
        cut.cell.tensor = cut.cell.spent = None
    return held


def fill(cuts: Iterable[Cut], tensors: Iterable[Any]) -> None:
    for cut, tensor in zip(cuts, tensors, strict=True):
        cut.cell.tensor, cut.cell.turn = tensor, 0


def hand_over(cuts: Iterable[Cut], spent: list[Any]) -> None:
    """Leave the cells alone with what an earlier keyframe kept; the list is empty afterwards."""
    for cut, tensor in zip(cuts, spent, strict=False):
        cut.cell.spent = tensor
    spent.clear()


def flat(kept: Any) -> list[Tensor]:
    """Every tensor of what cells hold."""
    return [leaf for leaf in tree_leaves(kept) if isinstance(leaf, Tensor)]


def size_bytes(kept: Iterable[Any]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in flat(list(kept)))
