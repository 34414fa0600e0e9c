"""Calls of a single time step: the baseline that shows why a mix is needed (PTQ4DM, arXiv 2211.15736, table 3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from parediff.calibration.trajectories import Trajectories
from parediff.errors import RequestError
from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.validation import Whole


@dataclass(frozen=True)
class SingleStep(Trajectories):
    """`count` trajectories, of which only the calls of the executed step `step` are kept (0 = the noisiest)."""

    step: Whole

    def kept(
        self, recorded: list[Call], seeds: Sequence[int], steps: list[int], model: DiffusionModel
    ) -> Iterator[Call]:
        if self.step not in steps:
            raise RequestError("calibration.step", self.step, f"a step the sampler executes, up to {steps[-1]}")
        return (call for call in recorded if call.step == self.step)
