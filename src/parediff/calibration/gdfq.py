"""Classes and BatchNorm's statistics teach a generator (GDFQ, arXiv 2003.03603)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from parediff.calibration.generated import GeneratorSource
from parediff.training.generator import GeneratorObjective
from parediff.training.generator_objectives import Gdfq
from parediff.validation import NonNegative, Positive


@dataclass(frozen=True)
class GDFQ(GeneratorSource):
    """CE(y, t(G(z, y))) + `statistics` V1; `bn_eps` 0.8 is the released code's."""

    statistics: Annotated[NonNegative, "weight of BatchNorm's statistics beside the classes"]
    bn_eps: Positive

    @property
    def objective(self) -> GeneratorObjective:
        return Gdfq(self.latent, self.statistics, self.bn_eps)
