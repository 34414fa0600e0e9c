"""Peak signal-to-noise ratio against the uncompressed model's images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log10
from typing import Any, ClassVar, Literal, Self

from torch import Tensor

from parediff.metrics.base import Metric
from parediff.metrics.pairs import LEVELS, as_pairs
from parediff.metrics.statistics import Mean


@dataclass(frozen=True)
class Ratios:
    """The mean ratio, and how many images equal their reference."""

    mean: Mean
    identical: int

    def merge(self, other: Self) -> Self:
        return type(self)(self.mean.merge(other.mean), self.identical + other.identical)


@dataclass(eq=False)
class PeakSignalToNoise(Metric[Ratios]):
    """Mean over images of 10 log10(255^2 / MSE), in dB.

    An image that equals its reference has no ratio. It counts as if one value were one level off, the least that
    8 bits can show, so that one equal image does not make the mean infinite; if all are equal the result is None.
    """

    section: ClassVar[Literal["quality", "fidelity"]] = "fidelity"
    better: ClassVar[Literal["lower", "higher"]] = "higher"
    meaning: ClassVar[str] = "PSNR (dB)"

    def measure(self, batch: Tensor, reference: Tensor | None, conditions: Sequence[Any] | None) -> Ratios:
        from torchmetrics.functional.image import peak_signal_noise_ratio

        images, targets = as_pairs(batch, reference)
        ratios = peak_signal_noise_ratio(
            images.double(), targets.double(), data_range=LEVELS, reduction="none", dim=(1, 2, 3)
        )
        highest = 10 * log10(LEVELS**2 * images[0].numel())
        identical = int((ratios == float("inf")).sum())
        return Ratios(Mean.of(ratios.clamp(max=highest).numpy()), identical)

    def value(self, statistic: Ratios) -> float | None:
        return None if statistic.identical == statistic.mean.count else statistic.mean.value

    def fingerprint(self) -> dict[str, Any]:
        return {"mean": "over images", "identical": "one value one level off", "data_range": LEVELS}
