"""Calls spread evenly over the sampler's steps (Q-Diffusion, arXiv 2302.04304, section 4.1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from parediff.calibration.trajectories import Trajectories, evenly
from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.validation import Count


@dataclass(frozen=True)
class Uniform(Trajectories):
    """`count` trajectories of the model, of which `steps` evenly spaced steps are kept."""

    steps: Count

    def kept(
        self, recorded: list[Call], seeds: Sequence[int], steps: list[int], model: DiffusionModel
    ) -> Iterator[Call]:
        chosen = evenly(steps, self.steps)
        return (call for call in recorded if call.step in chosen)
