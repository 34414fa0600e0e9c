"""Images on which a student still errs (DFAKD, arXiv 2005.04136)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from parediff.calibration.generated import GeneratorSource
from parediff.training.generator import GeneratorObjective
from parediff.training.generator_objectives import Dfakd
from parediff.training.rounded_copy import rounded_copy
from parediff.validation import require


@dataclass(frozen=True)
class DFAKD(GeneratorSource):
    """The generator ascends what the student descends, after `warmup` steps of statistics and entropies alone.

    For calibration the student is a copy of the classifier with weights of `student_bits` (our choice: the compressed
    network has no steps yet); under a method that trains it is the compressed network. Loss and schedule are those of
    public re-implementations; the paper's tables of quantisation could not be read.
    """

    alpha: float
    warmup: int
    student_bits: int
    student_rate: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.warmup >= 0, "warmup", self.warmup, "0 or more")
        require(2 <= self.student_bits <= 31, "student_bits", self.student_bits, "2 to 31")
        require(self.student_rate > 0, "student_rate", self.student_rate, "a positive number")

    @property
    def objective(self) -> GeneratorObjective:
        return Dfakd(self.latent, self.alpha)

    def student(self, teacher: nn.Module) -> nn.Module | None:
        return rounded_copy(teacher, self.student_bits)

    @property
    def student_settings(self) -> dict[str, Any]:
        return {"student_rate": self.student_rate, "warmup": self.warmup}
