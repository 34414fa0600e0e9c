"""GDFQ's generator with images between classes (Qimera, arXiv 2111.02625)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from parediff.calibration.generated import GeneratorSource
from parediff.training.generator import GeneratorObjective
from parediff.training.generator_objectives import Qimera as Superposing
from parediff.validation import require


@dataclass(frozen=True)
class Qimera(GeneratorSource):
    """With probability `superposed` a batch mixes `mixed` classes per image; `start`: where the embedding begins."""

    statistics: float
    bn_eps: float
    noise_scale: float
    superposed: float
    mixed: int
    start: Literal["classifier", "random"]

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.superposed <= 1, "superposed", self.superposed, "a probability")
        require(self.mixed >= 2, "mixed", self.mixed, "2 or more")

    @property
    def objective(self) -> GeneratorObjective:
        return Superposing(
            self.latent, self.statistics, self.bn_eps, self.noise_scale, self.superposed, self.mixed, self.start
        )
