"""How often a classifier sees the class that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from parediff.errors import RequestError
from parediff.metrics.base import Metric
from parediff.metrics.extractors import Classifier
from parediff.metrics.statistics import Mean
from parediff.validation import Count


@dataclass(eq=False)
class Accuracy(Metric[Mean]):
    """Share in [0, 1] of conditional samples whose class is among the `top` highest scores."""

    section: ClassVar[Literal["quality", "fidelity"]] = "quality"
    better: ClassVar[Literal["lower", "higher"]] = "higher"

    classifier: Classifier
    top: Annotated[Count, "of how many likeliest classes the wanted one has to be"]

    def check(self, conditions: Sequence[Any] | None, image_shape: tuple[int, int, int]) -> None:
        """Only class labels can be compared with a class."""
        self.classifier.check(image_shape)
        if not conditions:
            raise RequestError(
                "conditions", "null", "class labels are accepted: without a condition there is no accuracy"
            )
        for label in conditions:
            if isinstance(label, bool) or not isinstance(label, int):
                raise RequestError("conditions", label, "class labels (whole numbers) are accepted for accuracy")
        classes = int(self.classifier.logits(torch.zeros(1, *image_shape, dtype=torch.uint8)).shape[1])
        unknown = [label for label in conditions if not 0 <= label < classes]
        if unknown:
            accepted = f"labels 0 to {classes - 1} are accepted: the classifier knows no other"
            raise RequestError("conditions", unknown[0], accepted)

    def measure(self, batch: Tensor, reference: Tensor | None, conditions: Sequence[Any] | None) -> Mean:
        self.check(conditions, (batch.shape[1], batch.shape[2], batch.shape[3]))
        scores = self.classifier.logits(batch)
        labels = torch.tensor(list(conditions or ()))
        best = scores.topk(min(self.top, scores.shape[1])).indices
        return Mean.of((best == labels[:, None]).any(dim=1).numpy())

    def value(self, statistic: Mean) -> float | None:
        return statistic.value

    def fingerprint(self) -> dict[str, Any]:
        return {"classifier": self.classifier.fingerprint(), "top": self.top}
