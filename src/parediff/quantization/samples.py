"""What a quantiser's input looked like: its exact range, and a bounded random sample of its values, by time or not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from parediff.quantization.time_context import TimeContext

PER_CALL = 16384
"""At most so many values are looked at per call and group before the reservoir decides."""
GRADE = 128
"""So many numbers of a summary stand for one value each, then as many for two, then for four, from either end."""
MOMENTUM = 0.9
"""Of PTQ4DM's moving range: 0.9 old + 0.1 new (ptq4dm.md, section 4)."""


@dataclass(frozen=True)
class Samples:
    """`values` [groups, n]: a sample of each group's values; `low`, `high` [groups]: the exact range of all of them.

    A group is the whole tensor, or some of its channels; met at different time steps it counts once for each. `moving`
    [2, groups]: PTQ4DM's exponential moving range over the calls. `cells` [groups, n]: the channel of each value.
    `counts` [1, n]: how many values each stands for, where it is not one.
    """

    values: Tensor
    low: Tensor
    high: Tensor
    moving: Tensor | None = None
    cells: Tensor | None = None
    counts: Tensor | None = None

    @classmethod
    def of(cls, x: Tensor, axis: int | None = None, capacity: int = 2**20, groups: int | None = None) -> Samples:
        """All of x where it fits into `capacity` values, else an evenly spaced part of it, the same every time."""
        values = grouped(x.detach(), axis, groups)
        low, high = values.aminmax(dim=1)
        columns = max(1, capacity // values.shape[0])
        if values.shape[1] > columns:
            index = torch.linspace(0, values.shape[1] - 1, columns, dtype=torch.float64, device=x.device).long()
            values = values[:, index]
        return cls(values, low, high)

    def minus(self, offset: Tensor) -> Samples:
        """Every value less `offset` []."""
        moving = None if self.moving is None else self.moving - offset
        return Samples(self.values - offset, self.low - offset, self.high - offset, moving, self.cells)

    def summarised(self) -> Samples:
        """Neighbours in size as their mean, with their count: a search costs as much as it sees.

        Both ends, where clipping is decided, stay single values; towards the middle, where values lie far closer to
        each other than a step, as many stand for twice as many again and again. With cells nothing is put together.
        """
        sizes = _sizes(self.values.shape[1]).to(self.values.device)
        if self.cells is not None or self.counts is not None or len(sizes) > self.values.shape[1] / 2:
            return self
        where = torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes)
        sums = self.values.new_zeros(len(self.values), len(sizes)).index_add_(1, where, _ascending(self.values))
        counts = sizes.to(sums)[None]
        return replace(self, values=sums / counts, counts=counts)

    def pooled(self, groups: int) -> Samples:
        """[K * groups, n] as [groups, K * n]; a cell stays apart from the same channel's cell at another time."""
        pool = lambda x: x.unflatten(0, (-1, groups)).transpose(0, 1).flatten(1)  # noqa: E731
        low, high = pool(self.low).amin(1), pool(self.high).amax(1)
        cells = self.cells
        if cells is not None:
            times = torch.arange(len(cells), device=cells.device) // groups
            cells = pool(cells + times[:, None] * (cells.amax() + 1))
        return Samples(pool(self.values), low, high, torch.stack([low, high]), cells)


class Reservoir:
    """Collects Samples over many calls in bounded memory; every value seen has the same chance to be kept.

    Weighted reservoir sampling with exponential keys (Efraimidis and Spirakis): the `capacity` smallest keys survive,
    so calls of any number and size are sampled evenly. Once there are survivors, keys are drawn only below the largest
    of theirs, as many as chance would have put there. The random numbers come from a generator of its own.
    """

    def __init__(
        self, axis: int | None = None, capacity: int = 65536, seed: int = 0, *, groups: int | None = None,
        cells: bool = False,
    ) -> None:  # fmt: skip
        self.axis, self.groups, self.capacity, self.cells = axis, groups, capacity, cells
        self.generator = torch.Generator().manual_seed(seed)
        self.chunks: list[tuple[Tensor, ...]] = []
        self.range: Tensor | None = None
        self.moving: Tensor | None = None
        self.largest_key = math.inf

    @torch.no_grad()
    def add(self, x: Tensor) -> None:
        """Look at one call's tensor."""
        values = grouped(x.detach(), self.axis, self.groups)
        seen = torch.stack(values.aminmax(dim=1))
        if self.range is None or self.moving is None:
            self.range = self.moving = seen
        else:
            self.range = torch.stack([torch.minimum(self.range[0], seen[0]), torch.maximum(self.range[1], seen[1])])
            self.moving = torch.lerp(seen, self.moving, MOMENTUM)
        self.chunks.append(self._chosen(values, x))
        if sum(len(chunk[0]) for chunk in self.chunks) > 1.5 * self._columns(values):
            self.chunks = [self._survivors()]
            self.largest_key = float(self.chunks[0][0].amax())

    def samples(self) -> Samples:
        """What was collected so far. Nothing, NaN or infinity raises."""
        if self.range is None:
            raise ValueError("no calibration call reached this quantiser")
        if not bool(torch.isfinite(self.range).all()):
            raise ValueError("the calibration data holds NaN or infinity")
        _, values, *cells = self._survivors()
        return Samples(values, self.range[0], self.range[1], self.moving, cells[0] if cells else None)

    def _columns(self, values: Tensor) -> int:
        return max(1, self.capacity // values.shape[0])

    def _chosen(self, values: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        """(keys, values, their channels where they are asked for) of some columns of one call."""
        total = values.shape[1]
        taken = min(total, self._columns(values), PER_CALL)
        least = math.exp(-self.largest_key * total / taken)  # of the uniform number behind a key that may survive
        drawn = torch.binomial(torch.tensor(float(taken)), torch.tensor(1 - least), generator=self.generator)
        uniform = 1 - (1 - least) * torch.rand(int(drawn), generator=self.generator)
        keys = uniform.log_() * (-taken / total)
        index = self._places(len(keys), taken, total).to(values.device)
        chosen = keys, values.clone() if len(keys) == total else values[:, index]
        return (*chosen, channels_of(index, x)[None].expand(len(values), -1)) if self.cells else chosen

    def _places(self, wanted: int, taken: int, total: int) -> Tensor:
        """So many of `total` columns; each at most once where all were to be taken."""
        if wanted == total:
            return torch.arange(total)
        if taken == total:
            return torch.randperm(total, generator=self.generator)[:wanted]
        return torch.randint(total, (wanted,), generator=self.generator)

    def _survivors(self) -> tuple[Tensor, ...]:
        keys = torch.cat([chunk[0] for chunk in self.chunks])
        rest = [torch.cat(column, dim=1) for column in list(zip(*self.chunks, strict=True))[1:]]
        columns = self._columns(rest[0])
        if len(keys) <= columns:
            return keys, *rest
        keys, kept = keys.topk(columns, largest=False, sorted=False)
        return keys, *(one[:, kept.to(one.device)] for one in rest)


class TimedReservoir:
    """A reservoir for each time step of the calls; `context` tells the step of each call."""

    def __init__(self, context: TimeContext, **settings: Any) -> None:
        self.context, self.settings = context, settings
        self.at: dict[float, Reservoir] = {}

    def add(self, x: Tensor) -> None:
        """One call's tensor [B, ...], met at the context's t [B] or [1]."""
        t = self.context.t
        distinct = self.context.distinct
        for step in distinct:
            if step not in self.at:
                seed = self.settings["seed"] * 100_003 + int(step)
                self.at[step] = Reservoir(**(self.settings | {"seed": seed}))
            self.at[step].add(x if len(distinct) == 1 else x[t == step])

    def samples(self) -> Samples:
        """Time steps in ascending order."""
        if not self.at:
            raise ValueError("no calibration call reached this quantiser")
        return joined([self.at[step].samples() for step in sorted(self.at)])


def joined(found: Sequence[Samples]) -> Samples:
    """Those of several time steps, one after the other; where there are fewer values they are repeated."""
    count = max(one.values.shape[1] for one in found)
    parts = [_repeated(one, count) for one in found]
    cells = [one.cells for one in parts if one.cells is not None]
    return Samples(
        torch.cat([one.values for one in parts]),
        torch.cat([one.low for one in parts]),
        torch.cat([one.high for one in parts]),
        torch.cat([one.moving for one in parts if one.moving is not None], dim=1),
        torch.cat(cells) if cells else None,
    )


def _repeated(samples: Samples, count: int) -> Samples:
    index = torch.arange(count, device=samples.values.device) % samples.values.shape[1]
    cells = None if samples.cells is None else samples.cells[:, index]
    return replace(samples, values=samples.values[:, index], cells=cells)


@lru_cache(maxsize=64)
def _sizes(count: int) -> Tensor:
    """How many of `count` sorted values each number of a summary stands for."""
    side: list[int] = []
    left = count // 2
    while left > 0:
        side.append(min(left, 2 ** (len(side) // GRADE)))
        left -= side[-1]
    return torch.tensor([*side, *[1] * (count % 2), *reversed(side)])


def _ascending(values: Tensor) -> Tensor:
    """Each row sorted; numpy is twenty times as fast at it on a processor."""
    return torch.from_numpy(np.sort(values.numpy(), axis=1)) if values.device.type == "cpu" else values.sort(1).values


def grouped(x: Tensor, axis: int | None, groups: int | None = None) -> Tensor:
    """[groups, values per group] in float32: all of x, every channel of the axis, or so many groups of channels."""
    if axis is None:
        return x.reshape(1, -1).float()
    channels = x.movedim(axis, 0).flatten(1)
    return (channels if groups is None else channels.reshape(groups, -1)).float()


def channels_of(index: Tensor, x: Tensor) -> Tensor:
    """The channel of each element of x by its flat index: the second axis of an image, the last of a sequence."""
    return index // x[0, 0].numel() % x.shape[1] if x.ndim == 4 else index % x.shape[-1]


@contextmanager
def observing(modules: Mapping[str, nn.Module], reservoirs: Mapping[str, Reservoir | TimedReservoir]) -> Iterator[None]:
    """What reaches each module goes into its reservoir while the block runs.

    A forward that autograd repeats for gradient checkpointing is not looked at.
    """

    def recorder(reservoir: Reservoir | TimedReservoir) -> Any:
        def record(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            if torch._C._current_graph_task_id() == -1:
                reservoir.add(args[0])

        return record

    with ExitStack() as stack:
        for name, module in modules.items():
            stack.callback(module.register_forward_pre_hook(recorder(reservoirs[name])).remove)
        yield
