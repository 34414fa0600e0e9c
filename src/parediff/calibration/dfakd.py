"""Images on which a student still errs (DFAKD, arXiv 2005.04136)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from torch import nn

from parediff.calibration.generated import GeneratorSource
from parediff.training.generator import GeneratorObjective
from parediff.training.generator_objectives import Dfakd
from parediff.training.rounded_copy import rounded_copy
from parediff.validation import NonNegative, Positive, Range, Whole


@dataclass(frozen=True)
class DFAKD(GeneratorSource):
    """The generator ascends what the student descends, after `warmup` steps of statistics and entropies alone.

    For calibration the student is a copy of the classifier with weights of `student_bits` (our choice: the compressed
    network has no steps yet); under a method that trains it is the compressed network. Loss and schedule are those of
    public re-implementations; the paper's tables of quantisation could not be read.
    """

    alpha: Annotated[NonNegative, "weight of the one-hot and activation terms"]
    warmup: Whole
    student_bits: Annotated[int, Range(2, 31), "width of the student's weights"]
    student_rate: Annotated[Positive, "the student's learning rate"]

    @property
    def objective(self) -> GeneratorObjective:
        return Dfakd(self.latent, self.alpha)

    def student(self, teacher: nn.Module) -> nn.Module | None:
        return rounded_copy(teacher, self.student_bits)

    @property
    def student_settings(self) -> dict[str, Any]:
        return {"student_rate": self.student_rate, "warmup": self.warmup}
