"""What a quantiser's input looked like: its exact range, and a bounded random sample of its values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from parediff.quantization.quantizer import Quantizer

PER_CALL = 16384
"""At most so many values are looked at per call and group before the reservoir decides."""


@dataclass(frozen=True)
class Samples:
    """`values` [groups, n]: a sample of each group's values; `low`, `high` [groups]: the exact range of all of them.

    A group is the whole tensor, or one channel.
    """

    values: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, x: Tensor, axis: int | None = None, capacity: int = 2**20) -> Samples:
        """All of x where it fits into `capacity` values, else an evenly spaced part of it, the same every time."""
        values = grouped(x.detach(), axis)
        low, high = values.aminmax(dim=1)
        columns = max(1, capacity // values.shape[0])
        if values.shape[1] > columns:
            index = torch.linspace(0, values.shape[1] - 1, columns, dtype=torch.float64, device=x.device).long()
            values = values[:, index]
        return cls(values, low, high)


class Reservoir:
    """Collects Samples over many calls in bounded memory; every value seen has the same chance to be kept.

    Weighted reservoir sampling with exponential keys (Efraimidis and Spirakis): the `capacity` smallest keys survive,
    so calls of any number and size are sampled evenly. The random numbers come from a generator of its own.
    """

    def __init__(self, axis: int | None = None, capacity: int = 65536, seed: int = 0) -> None:
        self.axis, self.capacity = axis, capacity
        self.generator = torch.Generator().manual_seed(seed)
        self.chunks: list[tuple[Tensor, Tensor]] = []
        self.low: Tensor | None = None
        self.high: Tensor | None = None

    @torch.no_grad()
    def add(self, x: Tensor) -> None:
        """Look at one call's tensor."""
        values = grouped(x.detach(), self.axis)
        low, high = values.aminmax(dim=1)
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)
        self.chunks.append(self._chosen(values))
        if sum(len(keys) for keys, _ in self.chunks) > 2 * self._columns(values):
            self.chunks = [self._survivors()]

    def samples(self) -> Samples:
        """What was collected so far. Nothing, NaN or infinity raises."""
        if self.low is None or self.high is None:
            raise ValueError("no calibration call reached this quantiser")
        if not bool(torch.isfinite(self.low).all() and torch.isfinite(self.high).all()):
            raise ValueError("the calibration data holds NaN or infinity")
        return Samples(self._survivors()[1], self.low, self.high)

    def _columns(self, values: Tensor) -> int:
        return max(1, self.capacity // values.shape[0])

    def _chosen(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """(keys, values) of some columns of one call."""
        total = values.shape[1]
        taken = min(total, self._columns(values), PER_CALL)
        if taken < total:
            index = torch.randint(total, (taken,), generator=self.generator)
            values = values[:, index.to(values.device)]
        keys = torch.rand(taken, generator=self.generator).log_() * (-taken / total)
        return keys, values.clone()

    def _survivors(self) -> tuple[Tensor, Tensor]:
        keys = torch.cat([keys for keys, _ in self.chunks])
        values = torch.cat([values for _, values in self.chunks], dim=1)
        columns = self._columns(values)
        if len(keys) <= columns:
            return keys, values
        keys, kept = keys.topk(columns, largest=False, sorted=False)
        return keys, values[:, kept.to(values.device)]


def grouped(x: Tensor, axis: int | None) -> Tensor:
    """[groups, values per group] in float32."""
    flat = x.reshape(1, -1) if axis is None else x.movedim(axis, 0).flatten(1)
    return flat.float()


@contextmanager
def observing(quantizers: Mapping[str, Quantizer], reservoirs: Mapping[str, Reservoir]) -> Iterator[None]:
    """What reaches each quantiser goes into its reservoir while the block runs.

    A forward that autograd repeats for gradient checkpointing is not looked at.
    """
    with ExitStack() as stack:
        for name, quantizer in quantizers.items():
            hook = quantizer.register_forward_pre_hook(_recorder(reservoirs[name]))
            stack.callback(hook.remove)
        yield


def _recorder(reservoir: Reservoir) -> Any:
    def record(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        if torch._C._current_graph_task_id() == -1:
            reservoir.add(args[0])

    return record
