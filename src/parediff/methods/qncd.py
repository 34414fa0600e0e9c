"""QNCD: quantisation noise corrected inside the network and between steps (Chu et al. 2024, arXiv 2403.19140)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch

from parediff.correction.bias import BiasEstimate, Granularity
from parediff.correction.estimation import Estimation, Schedule, check_order
from parediff.correction.expected import NAME, ExpectedMean, fit, table_of
from parediff.correction.smoothing import calibrate_smoothing, install_smoothing, smoothing_factors
from parediff.errors import RequestError
from parediff.methods.base import Method
from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.validation import NonNegative, Range, Share, Whole


@dataclass(frozen=True)
class Qncd(Method):
    """`smoothing` folds S ^ `smoothing_strength` into the layers behind the time embedding: list qncd before ptq then.

    `estimate_every` steps (0: never) the network's mean error is measured, between the shares `start` and `end` of the
    steps, and subtracted until the next time. The paper's `estimator` re-noises the sample (`renoised`) and cannot see
    a bias behind the drift that it caused; `expected`, ours, holds the mean to what the uncompressed network answers to
    an input of this mean, and costs no call. `gate`, `shrink` and `granularity` are those of BiasEstimate; only
    `sample` keeps images independent of their batch.
    """

    corrects: ClassVar[bool] = True
    comes_first: ClassVar[bool] = True

    smoothing: bool
    smoothing_strength: Annotated[float, Range(above=0, most=1)]
    estimate_every: Whole
    start: Share
    granularity: Granularity
    gate: NonNegative
    shrink: bool
    estimator: Literal["renoised", "expected"] = "renoised"
    end: Share = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.smoothing and not self.estimate_every:
            raise RequestError("estimate_every", 0, "1 or more is accepted where smoothing is off")

    @property
    def _expects(self) -> bool:
        return bool(self.estimate_every) and self.estimator == "expected"

    def prepare(self, model: DiffusionModel) -> None:
        if self.smoothing:
            install_smoothing(model)
        if self.estimate_every:
            estimate = BiasEstimate(self.granularity, self.gate, self.shrink)
            schedule = Schedule(self.estimate_every, self.start, self.end)
            model.wrap(Estimation(schedule, estimate, self._expects))
        if self._expects:
            capacity = int(model.pipeline.scheduler.config.get("num_train_timesteps", 1000))
            model.denoiser.add_module(NAME, ExpectedMean(capacity, model.sample_shape[0]).to(model.device))

    def calibrate(self, model: DiffusionModel, calls: Iterable[Call]) -> None:
        for estimation in _estimations(model):
            check_order(model, estimation)
        if self.smoothing:
            calibrate_smoothing(model, calls, self.smoothing_strength)
        if self._expects:
            fit(table_of(model), model, calls)

    def finalize(self, model: DiffusionModel) -> None:
        for estimation in _estimations(model):
            estimation.released = True

    def fired(self, model: DiffusionModel) -> dict[str, Any]:
        proof: dict[str, Any] = {"smoothing": self.smoothing, "estimate_every": self.estimate_every}
        if self.smoothing:
            factors = torch.cat([factor.flatten() for factor in smoothing_factors(model.denoiser)])
            widest = float(factors.max())
            proof |= {"smoothed_share": float((factors > 1).float().mean()), "largest_factor": widest}
        for estimation in _estimations(model):
            proof["estimates"] = estimation.tally.proof()
        return proof


def _estimations(model: DiffusionModel) -> list[Estimation]:
    """What `prepare` put around the door of this model, or of the one that it was copied from."""
    return [factory for factory in model.wrapper_factories if isinstance(factory, Estimation)]
