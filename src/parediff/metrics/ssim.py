"""Structural similarity against the uncompressed model's images (Wang et al. 2004)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from parediff.errors import RequestError
from parediff.metrics.base import Metric
from parediff.metrics.pairs import LEVELS, as_pairs
from parediff.metrics.statistics import Mean
from parediff.validation import Positive

PUBLISHED_SIGMA = 1.5  # of the 11x11 Gaussian window
SIDE_PER_SIGMA = 16  # its window of 7 sigma is then below half the side: 8x8 images get sigma 0.5, a 5x5 window


@dataclass(eq=False)
class StructuralSimilarity(Metric[Mean]):
    """Mean over images, 1 for equal ones. `sigma` null: 1.5 as published, side/16 for images smaller than 24 pixels."""

    section: ClassVar[Literal["quality", "fidelity"]] = "fidelity"
    better: ClassVar[Literal["lower", "higher"]] = "higher"
    meaning: ClassVar[str] = "SSIM"

    sigma: Positive | None

    def check(self, conditions: Sequence[Any] | None, image_shape: tuple[int, int, int]) -> None:
        self._sigma(min(image_shape[1:]))

    def measure(self, batch: Tensor, reference: Tensor | None, conditions: Sequence[Any] | None) -> Mean:
        from torchmetrics.functional.image import structural_similarity_index_measure

        images, targets = as_pairs(batch, reference)
        sigma = self._sigma(min(images.shape[-2:]))
        similarity = structural_similarity_index_measure(
            images, targets, sigma=sigma, data_range=LEVELS, reduction="none"
        )
        return Mean.of(similarity.reshape(-1).numpy())

    def value(self, statistic: Mean) -> float | None:
        return statistic.value

    def fingerprint(self) -> dict[str, Any]:
        return {"sigma": self.sigma or f"{PUBLISHED_SIGMA}, at most side/{SIDE_PER_SIGMA}", "data_range": LEVELS}

    def _sigma(self, side: int) -> float:
        sigma = self.sigma or min(PUBLISHED_SIGMA, side / SIDE_PER_SIGMA)
        window = 2 * int(3.5 * sigma + 0.5) + 1  # as torchmetrics draws it
        if window > side:
            raise RequestError("sigma", sigma, f"a window within {side} pixels is accepted; this one is {window} wide")
        return sigma
