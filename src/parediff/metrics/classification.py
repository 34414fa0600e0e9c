"""What a classifier's answers are worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from parediff.metrics.base import Metric
from parediff.metrics.statistics import Mean


@dataclass(eq=False)
class Top1(Metric[Mean]):
    """Share in [0, 1] of held-out images whose class is named."""

    section: ClassVar[Literal["quality", "fidelity"]] = "quality"
    better: ClassVar[Literal["lower", "higher"]] = "higher"
    judges: ClassVar[Literal["images", "classes"]] = "classes"
    meaning: ClassVar[str] = "top-1 accuracy"

    def measure(self, batch: Tensor, reference: Tensor | None, conditions: Sequence[Any] | None) -> Mean:
        return Mean.of((batch == torch.tensor(list(conditions or ()))).double().numpy())

    def value(self, statistic: Mean) -> float | None:
        return statistic.value

    def fingerprint(self) -> dict[str, Any]:
        return {}


@dataclass(eq=False)
class Agreement(Metric[Mean]):
    """Share in [0, 1] of held-out images for which the uncompressed network names the same class."""

    section: ClassVar[Literal["quality", "fidelity"]] = "fidelity"
    better: ClassVar[Literal["lower", "higher"]] = "higher"
    judges: ClassVar[Literal["images", "classes"]] = "classes"
    meaning: ClassVar[str] = "agreement with the uncompressed network"

    def measure(self, batch: Tensor, reference: Tensor | None, conditions: Sequence[Any] | None) -> Mean:
        if reference is None:
            raise ValueError("agreement compares with the uncompressed network's classes; none were given")
        return Mean.of((batch == reference).double().numpy())

    def value(self, statistic: Mean) -> float | None:
        return statistic.value

    def fingerprint(self) -> dict[str, Any]:
        return {}
