"""Evaluations of the network for an image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from parediff.cost.base import PerImage, WatchedCost
from parediff.cost.operations import CallCounter
from parediff.models.diffusion.door import observing


@dataclass(frozen=True)
class NetworkEvaluations(WatchedCost):
    """Every batch entry that reaches the network is one, so that guidance doubles and a skipped call costs nothing."""

    symbol: ClassVar[str] = ""
    meaning: ClassVar[str] = "denoiser calls per image"

    @contextmanager
    def watch(self, model: Any) -> Iterator[PerImage]:
        calls = CallCounter()
        with observing(model, calls):
            yield calls.per_image
