"""Telling early that a data-free training has nothing left to learn from."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from parediff.training.synthesis import Diverged

PATIENCE = 50
"""Steps before anything is judged."""
LEAST_CLASSES = 0.15
"""Effective number of classes that the teacher sees, as a share of all; below it the generator has collapsed."""
MOST_RISE = 10.0
"""The student's divergence over the least it has had."""


class CollapseWatch(nn.Module):
    """The teacher's predictions on the generator's images as a fading histogram, and the student's divergence.

    `conditional`: also how often the teacher agrees with the wanted class, per class.
    """

    histogram: Tensor
    agreement: Tensor
    steps: Tensor
    divergence: Tensor
    least: Tensor

    def __init__(self, classes: int, *, conditional: bool) -> None:
        super().__init__()
        self.conditional = conditional
        self.register_buffer("histogram", torch.full((classes,), 1 / classes))
        self.register_buffer("agreement", torch.full((classes,), 1 / classes))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("divergence", torch.zeros(()))
        self.register_buffer("least", torch.full((), torch.inf))

    @torch.no_grad()
    def look(self, logits: Tensor, wanted: Tensor) -> None:
        """One batch: teacher's logits [N, classes], the classes that were asked for [N]."""
        named = logits.argmax(1)
        classes = len(self.histogram)
        self.histogram.lerp_(named.bincount(minlength=classes) / len(named), 0.05)
        asked = wanted.bincount(minlength=classes)
        right = wanted[named == wanted].bincount(minlength=classes)
        present = asked > 0
        self.agreement[present] = self.agreement[present].lerp((right / asked.clamp_min(1))[present], 0.05)
        self.steps += 1
        if int(self.steps) >= PATIENCE and self.effective_classes() < max(LEAST_CLASSES * classes, 1.05):
            raise Diverged(
                f"the generator has collapsed: the teacher sees {self.effective_classes():.1f} of {classes} classes "
                f"after {int(self.steps)} steps"
            )

    @torch.no_grad()
    def look_at_student(self, divergence: Tensor) -> None:
        """The student's divergence from the teacher in one step."""
        first = not bool(torch.isfinite(self.least))
        self.divergence.copy_(divergence if first else self.divergence.lerp(divergence, 0.05))
        self.least.copy_(torch.minimum(self.least, self.divergence))
        floor = float(self.least) + 1e-2
        if int(self.steps) >= PATIENCE and float(self.divergence) > MOST_RISE * floor:
            raise Diverged(
                f"the student drifts away from the teacher: divergence {float(self.divergence):.3g} "
                f"after it had been {float(self.least):.3g}"
            )

    def effective_classes(self) -> float:
        """exp of the histogram's entropy."""
        return float(torch.special.entr(self.histogram).sum().exp())

    def values(self) -> dict[str, Tensor]:
        """What to log; of agreement the tenth percentile over classes."""
        found = {"effective_classes": torch.tensor(self.effective_classes())}
        return found | ({"agreement_p10": self.agreement.quantile(0.1)} if self.conditional else {})
