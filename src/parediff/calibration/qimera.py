"""GDFQ's generator with images between classes (Qimera, arXiv 2111.02625)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from parediff.calibration.generated import GeneratorSource
from parediff.training.generator import GeneratorObjective
from parediff.training.generator_objectives import Qimera as Superposing
from parediff.validation import NonNegative, Positive, Several, Share


@dataclass(frozen=True)
class Qimera(GeneratorSource):
    """With probability `superposed` a batch mixes `mixed` classes per image; `start`: where the embedding begins."""

    statistics: Annotated[NonNegative, "weight of BatchNorm's statistics beside the classes"]
    bn_eps: Annotated[Positive, "momentum of the running statistics, as GDFQ released it"]
    noise_scale: Annotated[NonNegative, "of the noise on the embeddings"]
    superposed: Share
    mixed: Several
    start: Literal["classifier", "random"]

    @property
    def objective(self) -> GeneratorObjective:
        return Superposing(
            self.latent, self.statistics, self.bn_eps, self.noise_scale, self.superposed, self.mixed, self.start
        )
