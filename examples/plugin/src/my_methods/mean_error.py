"""How far pixels are from the uncompressed model's, in grey levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from parediff import Metric
from parediff.metrics.pairs import as_pairs
from parediff.metrics.statistics import Mean


@dataclass(eq=False)
class MeanError(Metric[Mean]):
    """Mean over images of the mean |difference| of all pixels, in levels from 0 to 255."""

    section: ClassVar[Literal["quality", "fidelity"]] = "fidelity"
    better: ClassVar[Literal["lower", "higher"]] = "lower"
    meaning: ClassVar[str] = "mean error (levels)"

    def measure(self, batch: Tensor, reference: Tensor | None, conditions: Sequence[Any] | None) -> Mean:
        images, targets = as_pairs(batch, reference)  # uint8 [B, C, H, W] as float, 0 to 255
        return Mean.of((images - targets).abs().flatten(1).mean(1).numpy())

    def value(self, statistic: Mean) -> float:
        return statistic.value

    def fingerprint(self) -> dict[str, Any]:
        return {"range": "0 to 255", "mean": "over images"}
