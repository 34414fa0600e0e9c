"""GDFQ's generator, asked for images on which the classifier is stable (RIS, arXiv 2310.03661)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from parediff.calibration.generated import GeneratorSource
from parediff.training.augmentations import require_known
from parediff.training.generator import GeneratorObjective
from parediff.training.generator_objectives import Gdfq, Ris
from parediff.validation import Count, NonNegative, Positive


@dataclass(frozen=True)
class RIS(GeneratorSource):
    """Robust to one augmentation of `pool` and to noise of `weight_sigma` rms on the weights, from `eps` times noise's.

    A reconstruction: see `training.generator_objectives.Ris` for what is the paper's and what our choice.
    """

    statistics: Annotated[NonNegative, "weight of BatchNorm's statistics beside the classes"]
    bn_eps: Annotated[Positive, "momentum of the running statistics, as GDFQ released it"]
    weight: NonNegative
    eps: NonNegative
    weight_sigma: NonNegative
    pool: Annotated[tuple[str, ...], "augmentations that an image has to stand"]
    labels: Annotated[
        Literal["hard", "soft_min_corr"], "the classes that images are made for: one, or several that are least alike"
    ]
    candidates: Annotated[Count, "labels of which the best is taken"]

    def __post_init__(self) -> None:
        super().__post_init__()
        require_known("pool", self.pool, least=1)

    @property
    def objective(self) -> GeneratorObjective:
        host = Gdfq(self.latent, self.statistics, self.bn_eps)
        return Ris(host, self.weight, self.eps, self.weight_sigma, self.pool, self.labels, self.candidates)
