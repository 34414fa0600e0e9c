"""What a quantiser's input looked like: its exact range, and a bounded random sample of its values, by time or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from parediff.quantization.time_context import TimeContext

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
        low, high = extremes(values)
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

    Of each call so many values are taken as the present rate says, which lets the first one fill `capacity`. Where more
    than twice as much would be held, the rate halves and so does what is held, one of every two neighbours by lot; a
    result is thinned out to `capacity`. The random numbers come from a generator of its own.
    """

    def __init__(
        self, axis: int | None = None, capacity: int = 65536, seed: int = 0, *, groups: int | None = None,
        cells: bool = False,
    ) -> None:  # fmt: skip
        self.axis, self.groups, self.capacity, self.cells, self.seed = axis, groups, capacity, cells, seed
        self.generator = torch.Generator().manual_seed(seed)
        self.chunks: list[tuple[Tensor, ...]] = []
        self.rate = 1.0
        self.range: Tensor | None = None
        self.moving: Tensor | None = None

    @torch.no_grad()
    def add(self, x: Tensor) -> None:
        """Look at one call's tensor."""
        values = grouped(x.detach(), self.axis, self.groups)
        seen = torch.stack(extremes(values))
        columns, total = max(1, self.capacity // len(values)), values.shape[1]
        if self.range is None or self.moving is None:
            self.range = self.moving = seen
            self.rate = min(1.0, columns / total)
        else:
            self.range = torch.stack([torch.minimum(self.range[0], seen[0]), torch.maximum(self.range[1], seen[1])])
            self.moving = torch.lerp(seen, self.moving, MOMENTUM)
        while self.held + total * self.rate > 2 * columns + 2:
            self._halve()
        self.chunks.append(self._taken(values, x))

    def samples(self) -> Samples:
        """What was collected so far. Nothing, NaN or infinity raises."""
        if self.range is None:
            raise ValueError("no calibration call reached this quantiser")
        if not bool(torch.isfinite(self.range).all()):
            raise ValueError("the calibration data holds NaN or infinity")
        values, *cells = self._together()
        columns = max(1, self.capacity // len(values))
        if self.held > columns:
            share = torch.rand(columns, dtype=torch.float64, generator=torch.Generator().manual_seed(self.seed))
            index = ((torch.arange(columns) + share) * (self.held / columns)).long().to(values.device)
            values, *cells = (one.index_select(1, index) for one in (values, *cells))
        return Samples(values, self.range[0], self.range[1], self.moving, cells[0] if cells else None)

    @property
    def held(self) -> int:
        """Values of each group that are held now."""
        return sum(chunk[0].shape[1] for chunk in self.chunks)

    def _halve(self) -> None:
        self.rate /= 2
        if not self.chunks:
            return
        parts = self._together()
        index = torch.arange(0, self.held, 2)
        index += torch.randint(2, (len(index),), generator=self.generator)
        index = index[index < self.held].to(parts[0].device)
        self.chunks = [tuple(part.index_select(1, index) for part in parts)]

    def _taken(self, values: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        """Some columns of one call, and their channels where they are asked for."""
        total = values.shape[1]
        wanted = int(total * self.rate + 1e-9 + float(torch.rand((), generator=self.generator)))
        index = torch.arange(total) if wanted == total else torch.randint(total, (wanted,), generator=self.generator)
        index = index.to(values.device)
        taken = values.clone() if wanted == total else values.index_select(1, index)
        return (taken, channels_of(index, x)[None].expand(len(values), -1)) if self.cells else (taken,)

    def _together(self) -> tuple[Tensor, ...]:
        return tuple(torch.cat(column, dim=1) for column in zip(*self.chunks, strict=True))


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
    if samples.values.shape[1] == count:
        return samples
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


def extremes(values: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest of each row; `aminmax` takes seven times as long on a processor."""
    return values.amin(dim=1), values.amax(dim=1)


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
