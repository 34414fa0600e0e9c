"""Bit operations of an image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from parediff.cost.base import PerImage, WatchedCost
from parediff.cost.operations import counting


@dataclass(frozen=True)
class Bops(WatchedCost):
    """Multiply-accumulates times the widths of both operands, over the whole sampling run as executed."""

    symbol: ClassVar[str] = "BOPs"
    meaning: ClassVar[str] = "bit operations per image"

    @contextmanager
    def watch(self, model: Any) -> Iterator[PerImage]:
        with counting(model.denoiser) as counter:
            yield lambda images: counter.per_image(images).bops
