"""Calls spread evenly over the sampler's steps (Q-Diffusion, arXiv 2302.04304, section 4.1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from parediff import sampling
from parediff.calibration.base import CalibrationSource
from parediff.model.diffusion import DiffusionModel
from parediff.model.door import Call
from parediff.model.sampler import Sampler
from parediff.validation import require
from parediff.workload import Workload


@dataclass(frozen=True)
class Uniform(CalibrationSource):
    """`count` trajectories of the model, of which `steps` evenly spaced steps are kept."""

    first_seed: int
    count: int
    batch_size: int
    steps: int

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.first_seed >= 0, "first_seed", self.first_seed, "0 or more")
        for key in ("count", "batch_size", "steps"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "1 or more")

    @property
    def seeds(self) -> range:
        return range(self.first_seed, self.first_seed + self.count)

    def record(self, model: DiffusionModel, sampler: Sampler) -> Iterator[Call]:
        workload = Workload(self.first_seed, self.count, self.batch_size)
        recorded = list(sampling.calls(model, workload, sampler))
        present = sorted({call.step for call in recorded})
        stride = max(1, len(present) / self.steps)
        kept = {present[int(i * stride)] for i in range(min(self.steps, len(present)))}
        return (call for call in recorded if call.step in kept)
