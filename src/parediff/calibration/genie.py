"""GENIE-D: a fresh generator for every batch, distilled from BatchNorm's statistics (arXiv 2212.04780)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from parediff.calibration.images import ImageSource, Labelled, Studio, require_several
from parediff.models.classifiers.model import ClassifierModel
from parediff.models.classifiers.probes import require_norms
from parediff.training.image_fitting import CodeFitting
from parediff.validation import Count, Positive


@dataclass(frozen=True)
class Genie(ImageSource):
    """Codes and generator learn together for `steps` steps a batch, without classes.

    The paper's code calls `code_rate` lr_g and `generator_rate` lr_z, and drops an incomplete last batch, which is made
    here. `swing`: strided convolutions see their input shifted by a random pixel meanwhile.
    """

    steps: Count
    latent: Annotated[Count, "numbers of each code"]
    code_rate: Positive
    generator_rate: Positive
    swing: Annotated[bool, "whether strided convolutions see their input shifted by a random pixel"]

    def __post_init__(self) -> None:
        super().__post_init__()
        require_several(self)

    def check(self, teacher: ClassifierModel) -> None:
        require_norms(teacher.denoiser, "genie")

    def make(self, studio: Studio) -> Iterator[Labelled]:
        start = self.first_seed
        for place, size in enumerate(self.sizes):
            module = CodeFitting(
                studio.teacher.denoiser,
                studio.shape,
                count=size,
                latent=self.latent,
                code_rate=self.code_rate,
                generator_rate=self.generator_rate,
                swing=self.swing,
                seed=start,
            )
            studio.fit(f"genie-{place}", module, self.steps)
            yield studio.named(studio.images(module.result()))
            start += size
