"""GDFQ's generator, asked for images on which the classifier is stable (RIS, arXiv 2310.03661)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from parediff.calibration.generated import GeneratorSource
from parediff.training.generator import GeneratorObjective
from parediff.training.generator_objectives import AUGMENTATIONS, Gdfq, Ris
from parediff.validation import require


@dataclass(frozen=True)
class RIS(GeneratorSource):
    """Robust to one augmentation of `pool` and to noise of `weight_sigma` rms on the weights, from `eps` times noise's.

    A reconstruction: see `training.generator_objectives.Ris` for what is the paper's and what our choice.
    """

    statistics: float
    bn_eps: float
    weight: float
    eps: float
    weight_sigma: float
    pool: tuple[str, ...]
    labels: Literal["hard", "soft_min_corr"]
    candidates: int

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [name for name in self.pool if name not in AUGMENTATIONS]
        require(bool(self.pool) and not unknown, "pool", list(self.pool), f"some of {', '.join(AUGMENTATIONS)}")
        require(self.candidates >= 1, "candidates", self.candidates, "1 or more")
        for key in ("weight", "eps", "weight_sigma"):
            require(getattr(self, key) >= 0, key, getattr(self, key), "0 or more")

    @property
    def objective(self) -> GeneratorObjective:
        host = Gdfq(self.latent, self.statistics, self.bn_eps)
        return Ris(host, self.weight, self.eps, self.weight_sigma, self.pool, self.labels, self.candidates)
