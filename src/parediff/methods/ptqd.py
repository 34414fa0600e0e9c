"""PTQD: quantisation noise taken out of the prediction and out of the sampler's noise (arXiv 2305.10657)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from torch import Tensor

from parediff.correction.regression import NAME, NoiseRegression, moments_of
from parediff.errors import RequestError
from parediff.methods.base import Method
from parediff.models.diffusion.door import Call, Condition, Predict, Run, Sampled, Wrapper
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.reuse.prediction import kind_of


@dataclass(frozen=True)
class Ptqd(Method):
    """Listed after the method that quantises. `sampler` says the eta that the variance is corrected for.

    `variance`: the sampler's own noise shrinks by what the quantisation adds; without eta there is none to shrink. The
    paper's networks predict the noise; what another predicts is corrected as it is, and what is left of its error
    counts as the error of the noise that it implies.
    """

    corrects: ClassVar[bool] = True

    variance: bool
    sampler: Annotated[Sampler, "whose eta the variance is corrected for"] | None

    def prepare(self, model: DiffusionModel) -> None:
        kind_of(model.pipeline.scheduler)  # raises for what no noise can be told from
        capacity = int(model.pipeline.scheduler.config.get("num_train_timesteps", 1000))
        model.denoiser.add_module(NAME, NoiseRegression(capacity, model.sample_shape[0]).to(model.device))
        eta = self.sampler.eta if self.variance and self.sampler is not None else 0.0
        model.wrap(Correction(eta))

    def calibrate(self, model: DiffusionModel, calls: Iterable[Call]) -> None:
        regression = regression_of(model)
        found = moments_of(model, calls, regression.channels)
        if not found or not any(float(moments.d.abs().sum()) for moments in found.values()):
            raise RequestError("method", "ptqd", "a place after the method that quantises is accepted: nothing is yet")
        regression.fill(found)

    def fired(self, model: DiffusionModel) -> dict[str, Any]:
        regression = regression_of(model)
        known = len(regression.clock.known)
        return {
            "time_steps": known,
            "slope": [float(regression.slope[:known].min()), float(regression.slope[:known].max())],
            "largest_bias": float(regression.bias[:known].abs().max()),
            "residual_std": [float(regression.std[:known].min()), float(regression.std[:known].max())],
            "variance_corrected": any(isinstance(f, Correction) and f.eta > 0 for f in model.wrapper_factories),
        }


@dataclass(frozen=True)
class Correction:
    """The wrapper's factory: corrects every prediction, and the variance of the run's own scheduler."""

    eta: float

    def __call__(self, run: Run) -> Wrapper:
        regression = regression_of(run.model)
        if self.eta > 0 and hasattr(run.scheduler, "_get_variance"):
            shrink_variance(run.scheduler, regression, self.eta, run.model.guidance_scale)

        def corrected(predict: Predict, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
            return regression.corrected(predict(x, t, cond), t)

        return corrected


def shrink_variance(scheduler: Any, regression: NoiseRegression, eta: float, guidance: float) -> None:
    """sigma'^2 = max(0, sigma^2 - c_e^2 s_q^2) on this run's scheduler, which the run does not outlive.

    Under guidance the errors of both branches add up with the squares of their weights.
    """
    plain, kind = scheduler._get_variance, kind_of(scheduler)
    gain = guidance**2 + (1 - guidance) ** 2 if guidance > 1 else 1.0

    def shrunken(timestep: Any, previous: Any) -> Any:
        variance = plain(timestep, previous)
        sigma_squared = eta**2 * float(variance)
        kept, kept_after = _kept(scheduler, timestep, previous)
        factor = noise_factor(kept, kept_after, sigma_squared) * noise_share(kind, kept)
        left = max(0.0, sigma_squared - factor**2 * gain * regression.remaining_std(float(timestep)) ** 2)
        return variance * (left / sigma_squared) if sigma_squared > 0 else variance

    scheduler._get_variance = shrunken


def _kept(scheduler: Any, timestep: Any, previous: Any) -> tuple[float, float]:
    """abar at this step and at the next."""
    last = scheduler.final_alpha_cumprod
    after = scheduler.alphas_cumprod[previous] if previous >= 0 else last
    return float(scheduler.alphas_cumprod[timestep]), float(after)


def noise_factor(kept: float, kept_after: float, sigma_squared: float) -> float:
    """c_e: how much of an error of the predicted noise reaches the next x."""
    return float(max(0.0, 1 - kept_after - sigma_squared) ** 0.5 - (kept_after * (1 - kept) / kept) ** 0.5)


def noise_share(kind: str, kept: float) -> float:
    """How large an error of the implied noise is per error of what is predicted: eps = alpha v + sigma x, and so on."""
    return {"v_prediction": kept**0.5, "sample": (kept / (1 - kept)) ** 0.5}.get(kind, 1.0)


def regression_of(model: Sampled) -> NoiseRegression:
    """Where the statistics are kept, in this model's own denoiser."""
    module = getattr(model.denoiser, NAME)
    assert isinstance(module, NoiseRegression)
    return module
