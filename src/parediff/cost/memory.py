"""Peak memory in bytes: the allocator's own count on a GPU, live tensor storages on a CPU."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from parediff.cost.base import PerImage, WatchedCost


@dataclass(frozen=True)
class PeakMemory(WatchedCost):
    """Of one image drawn by itself, the network's parameters included."""

    symbol: ClassVar[str] = "B"
    meaning: ClassVar[str] = "peak memory"
    alone: ClassVar[bool] = True

    @contextmanager
    def watch(self, model: Any) -> Iterator[PerImage]:
        with peak_memory(model.device, model.denoiser) as peak:
            yield lambda images: peak.bytes


@dataclass
class Peak:
    """`bytes` is final once the block of `peak_memory` has ended."""

    bytes: int = 0


@contextmanager
def peak_memory(device: torch.device | str, *modules: nn.Module) -> Iterator[Peak]:
    """Highest number of bytes held at one moment by what the block allocates plus parameters and buffers of `modules`.

    Tensors that lay there before and belong to none of the modules count on a CPU from the moment the block uses them,
    and on a GPU not at all. Scratch space inside a CPU kernel is not seen.
    """
    device = torch.device(device)
    peak = Peak()
    if device.type == "cuda":
        yield from _cuda_peak(device, modules, peak)
        return
    tracker = _LiveStorages()
    for module in modules:
        tracker.see(_state(module))
    try:
        with tracker:
            yield peak
    finally:
        peak.bytes = tracker.peak


def _cuda_peak(device: torch.device, modules: tuple[nn.Module, ...], peak: Peak) -> Iterator[Peak]:
    storages = [t.untyped_storage() for module in modules for t in _state(module) if t.device.type == "cuda"]
    held = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    try:
        yield peak
    finally:
        peak.bytes = torch.cuda.max_memory_allocated(device) - before + held


def _state(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


class _LiveStorages(TorchDispatchMode):
    """Adds up the storages of every tensor an operation takes or returns until the last tensor on them is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._references: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self.see(_tensors((args, kwargs)))
        output = func(*args, **kwargs)
        self._add(_tensors(output))
        self.peak = max(self.peak, self.live)
        return output

    def see(self, values: Iterable[Tensor]) -> None:
        """Storages that were there before: they were part of every earlier moment, the peak included."""
        self.peak += self._add(values)

    def _add(self, values: Iterable[Tensor]) -> int:
        before = self.live
        for value in values:
            if value.layout == torch.strided and value.device.type == "cpu":
                self._follow(value.untyped_storage())
        return self.live - before

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._references:
            return

        def forget(_: weakref.ref[torch.UntypedStorage]) -> None:
            del self._references[key]
            self.live -= size

        self._references[key] = weakref.ref(storage, forget)
        self.live += size


def _tensors(value: Any) -> Iterator[Tensor]:
    """An operation's arguments and results hold tensors in tuples, lists and dictionaries; this is met at every one."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for entry in value:
            yield from _tensors(entry)
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))
