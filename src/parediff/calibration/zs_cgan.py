"""A conditional generator with the classifier in the discriminator's place (ZS-CGAN, arXiv 2210.14392)."""

from __future__ import annotations

from dataclasses import dataclass

from parediff.calibration.generated import GeneratorSource
from parediff.training.generator import GeneratorObjective
from parediff.training.generator_objectives import ZsCgan


@dataclass(frozen=True)
class ZSCGAN(GeneratorSource):
    """CE + `statistics` times the mean Gaussian divergence; frozen afterwards, also beside a student that learns.

    A reconstruction from the paper's abstract and introduction; its constants are ours.
    """

    statistics: float
    balance: float

    @property
    def objective(self) -> GeneratorObjective:
        return ZsCgan(self.latent, self.statistics, self.balance)
