"""Multiply-accumulates of an image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from parediff.cost.base import PerImage, WatchedCost
from parediff.cost.operations import counting


@dataclass(frozen=True)
class Macs(WatchedCost):
    """Of convolutions, linear layers and attention's products, over the whole sampling run as executed."""

    symbol: ClassVar[str] = "MACs"
    meaning: ClassVar[str] = "multiplications per image"

    @contextmanager
    def watch(self, model: Any) -> Iterator[PerImage]:
        with counting(model.denoiser) as counter:
            yield lambda images: counter.per_image(images).macs
