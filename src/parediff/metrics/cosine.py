"""Cosine similarity with the uncompressed model's images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor
from torch.nn import functional

from parediff.metrics.base import Metric
from parediff.metrics.pairs import LEVELS, as_pairs
from parediff.metrics.statistics import Mean


@dataclass(eq=False)
class CosineSimilarity(Metric[Mean]):
    """Mean over images of the cosine between all pixels of both, in [-1, 1] as the network draws them; 1 for equal."""

    section: ClassVar[Literal["quality", "fidelity"]] = "fidelity"
    better: ClassVar[Literal["lower", "higher"]] = "higher"
    meaning: ClassVar[str] = "cosine similarity"

    def measure(self, batch: Tensor, reference: Tensor | None, conditions: Sequence[Any] | None) -> Mean:
        images, targets = (side.double().flatten(1) / (LEVELS / 2) - 1 for side in as_pairs(batch, reference))
        return Mean.of(functional.cosine_similarity(images, targets).numpy())

    def value(self, statistic: Mean) -> float:
        return statistic.value

    def fingerprint(self) -> dict[str, Any]:
        return {"range": "-1 to 1", "mean": "over images"}
