"""What methods share that compute some steps in full and reuse features in between."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal

from torch import nn

from parediff.calibration.base import drawn
from parediff.methods.base import Method
from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.reuse.engine import Extrapolation, Reuse, Step, install, installed
from parediff.reuse.measured import Measure, attach_table, keyframes_of, place
from parediff.reuse.replacements import Cut
from parediff.reuse.schedules import Center, FirstFull, Interval, Keyframes, LastFull, Power, Schedule
from parediff.validation import require


@dataclass(frozen=True)
class Keyframed(Method):
    """Full steps and what is between them.

    `keyframes` is uniform (every `interval` steps), clustered (around step `center` with `power`), a list of steps, or
    measured (ours): as many as uniform ones, placed by what they do to the images that `measure` names. The first
    `first_full`, the last `last_full` are full. `extrapolation`, after TaylorSeer's first order (arXiv 2503.06923): so
    large a share of each feature's change from the keyframe before to the last one goes on between keyframes; 0 gives
    features back as they were.
    """

    family: ClassVar[Literal["", "quantisation", "feature reuse"]] = "feature reuse"
    owner: ClassVar[str]

    interval: Interval
    keyframes: Keyframes
    center: Center
    power: Power
    first_full: FirstFull
    last_full: LastFull
    extrapolation: Extrapolation = field(default=0.0, kw_only=True)
    measure: Measure | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._schedule()
        given = self.keyframes != "measured" or self.measure is not None
        require(given, "measure", None, "what is drawn to place measured keyframes")

    def prepare(self, model: DiffusionModel) -> None:
        install(model, Reuse(self.owner, self._cuts, self._plan, extrapolation=self.extrapolation))
        if self._measured is not None:
            steps = self._measured.sampler.steps
            attach_table(model.denoiser, self._schedule().over(steps), steps)

    def calibrate(self, model: DiffusionModel, calls: Iterable[Call]) -> None:
        if self._measured is not None:
            place(model, partial(drawn, calls), self._measured, self._schedule())

    def finalize(self, model: DiffusionModel) -> None:
        installed(model, self.owner).tally.reset()

    @abstractmethod
    def _cuts(self, denoiser: nn.Module) -> list[Cut]:
        """What is kept."""

    @abstractmethod
    def _plan(self, denoiser: nn.Module, steps: int, cuts: int) -> Sequence[Step]:
        """What every step does."""

    def _keyframes(self, denoiser: nn.Module, steps: int) -> frozenset[int]:
        """The full steps of a run of `steps`."""
        return self._schedule().over(steps) if self._measured is None else keyframes_of(denoiser, steps)

    def _reused(self, model: DiffusionModel) -> dict[str, Any]:
        """Where measured keyframes came to stand, and what was done with the calls."""
        placed = {} if self._measured is None else {"keyframes": sorted(keyframes_of(model.denoiser))}
        return placed | installed(model, self.owner).tally.shares()

    @property
    def _measured(self) -> Measure | None:
        return self.measure if self.keyframes == "measured" else None

    def _schedule(self) -> Schedule:
        return Schedule(self.keyframes, self.interval, self.center, self.power, self.first_full, self.last_full)
