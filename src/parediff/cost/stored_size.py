"""Bytes of the compressed network on disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from parediff.cost.base import PerImage, WatchedCost
from parediff.cost.size import size_bytes


@dataclass(frozen=True)
class StoredSize(WatchedCost):
    """Weights at their declared bits, all else at its dtype's width; the same for any number of images."""

    symbol: ClassVar[str] = "B"
    meaning: ClassVar[str] = "weights on disk"

    @contextmanager
    def watch(self, model: Any) -> Iterator[PerImage]:
        yield lambda images: size_bytes(model.denoiser)
