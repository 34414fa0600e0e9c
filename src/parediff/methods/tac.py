"""TAC-Diffusion's noise reconstruction: a linear map per step and channel back to the exact prediction (2407.03917)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from parediff.correction.affine import NAME, LinearReconstruction, pairs_of
from parediff.methods.base import Method
from parediff.models.diffusion.door import Call, Condition, Predict, Run, Sampled, Wrapper
from parediff.models.diffusion.pipeline import DiffusionModel


@dataclass(frozen=True)
class Tac(Method):
    """Listed after the method that quantises. The paper's second part, a bias of the sampler's input, is left out."""

    corrects: ClassVar[bool] = True

    def prepare(self, model: DiffusionModel) -> None:
        capacity = int(model.pipeline.scheduler.config.get("num_train_timesteps", 1000))
        model.denoiser.add_module(NAME, LinearReconstruction(capacity, (model.sample_shape[0], 1, 1)).to(model.device))
        model.wrap(_reconstructing)

    def calibrate(self, model: DiffusionModel, calls: Iterable[Call]) -> None:
        table = _table(model)
        found = pairs_of(model, calls, table.channels)
        table.fill({t: sums.of_channels() for t, sums in found.items()})

    def fired(self, model: DiffusionModel) -> dict[str, Any]:
        table = _table(model)
        known = len(table.clock.known)
        alpha, beta = table.alpha[:known], table.beta[:known]
        return {
            "time_steps": known,
            "alpha": [float(alpha.min()), float(alpha.max())],
            "largest_beta": float(beta.abs().max()),
        }


def _reconstructing(run: Run) -> Wrapper:
    table = _table(run.model)

    def wrapper(network: Predict, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        return table(network(x, t, cond), t)

    return wrapper


def _table(model: Sampled) -> LinearReconstruction:
    """Where the coefficients are kept, in this model's own denoiser."""
    module = getattr(model.denoiser, NAME)
    assert isinstance(module, LinearReconstruction)
    return module
