"""The real images that generated ones are compared with: one split of a data module."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from parediff.metrics.base import Statistic
from parediff.metrics.extractors import Extractor
from parediff.validation import check_types, require


class Data(Protocol):
    """What a data module has to offer: two datasets of (image CHW in [-1, 1], label)."""

    name: str

    @property
    def train(self) -> Any: ...

    @property
    def held_out(self) -> Any: ...


@dataclass(eq=False)
class Reference:
    """All images of a split, as uint8, in batches."""

    data: Data
    split: Literal["train", "held_out"]
    batch_size: int

    def __post_init__(self) -> None:
        check_types(self)
        require(self.batch_size >= 1, "batch_size", self.batch_size, "1 or more")

    def batches(self) -> Iterator[Tensor]:
        """Images, uint8 NCHW, rounded as generated ones are."""
        images = getattr(self.data, self.split)
        for start in range(0, len(images), self.batch_size):
            stop = min(start + self.batch_size, len(images))
            batch = torch.stack([images[index][0] for index in range(start, stop)])
            yield ((batch.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)

    def reduce(self, extractor: Extractor, statistic: Callable[[Any], Statistic]) -> Statistic:
        """Merged statistics of the features [N, D] of all images."""
        parts = (statistic(extractor.features(batch).numpy()) for batch in self.batches())
        return functools.reduce(lambda left, right: left.merge(right), parts)

    def fingerprint(self) -> dict[str, Any]:
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> dict[str, Any]:
        """Name, split, count and the images themselves: another download of the same set shows."""
        content, count = hashlib.sha256(), 0
        for batch in self.batches():
            content.update(np.ascontiguousarray(batch.numpy()).tobytes())
            count += len(batch)
        return {"data": self.data.name, "split": self.split, "count": count, "images": content.hexdigest()[:16]}
