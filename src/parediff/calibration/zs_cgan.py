"""A conditional generator with the classifier in the discriminator's place (ZS-CGAN, arXiv 2210.14392)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from parediff.calibration.generated import GeneratorSource
from parediff.training.generator import GeneratorObjective
from parediff.training.generator_objectives import ZsCgan
from parediff.validation import NonNegative


@dataclass(frozen=True)
class ZSCGAN(GeneratorSource):
    """CE + `statistics` times the mean Gaussian divergence; frozen afterwards, also beside a student that learns.

    A reconstruction from the paper's abstract and introduction; its constants are ours.
    """

    statistics: Annotated[NonNegative, "weight of BatchNorm's statistics beside the classes"]
    balance: Annotated[NonNegative, "weight of equally many images of each class"]

    @property
    def objective(self) -> GeneratorObjective:
        return ZsCgan(self.latent, self.statistics, self.balance)
