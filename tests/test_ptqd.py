"""PTQD's corrections: section 5 of quant_baselines.md."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import tiny
from composing import QUICK_PTQ
from parediff.calibration.base import LazyCalls
from parediff.calibration.uniform import Uniform
from parediff.config.compose import Composer
from parediff.config.request import construct
from parediff.correction.regression import Moments
from parediff.errors import RequestError
from parediff.methods.ptqd import Correction, Ptqd, noise_factor, noise_share, regression_of
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.pipeline.compress import compress, restore

STOCHASTIC = Sampler("ddim", "DDIMScheduler", 5, eta=1.0)
CALIBRATION = Uniform(10**9, 8, 8, 5)


class Distorted(nn.Module):
    """The last layer with an exact affine error in its output."""

    def __init__(self, layer: nn.Module, gain: float, offset: float) -> None:
        super().__init__()
        self.inner, self.gain, self.offset = layer, gain, offset

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.gain + self.offset


def filled(model: DiffusionModel, gain: float, offset: float, sampler: Sampler) -> DiffusionModel:
    """The model with an affine error, and PTQD's statistics of that error."""
    Ptqd(variance=True, sampler=sampler).prepare(model)
    exact = tiny.unconditional_model()
    found: dict[float, Moments] = {}
    for call in CALIBRATION.record(exact, sampler):
        output = exact.predict(call.x, call.t, call.cond)
        for t, e in zip(call.t.tolist(), output, strict=True):
            found.setdefault(float(t), Moments(1)).add(e, e * gain + offset - e)
    regression_of(model).fill(found)
    model.denoiser.conv_out = Distorted(model.denoiser.conv_out, gain, offset)
    return model


def test_without_error_it_is_plain_sampling() -> None:
    for sampler in (tiny.DDIM, STOCHASTIC):
        model = tiny.unconditional_model()
        plain = model.generate((1, 2), None, sampler)
        Ptqd(variance=True, sampler=sampler).prepare(model)
        regression_of(model).clock.remember(torch.tensor([1.0, 999.0]))
        assert torch.equal(model.generate((1, 2), None, sampler), plain)


@pytest.mark.parametrize("sampler", [tiny.DDIM, STOCHASTIC], ids=["eta 0", "eta 1"])
def test_an_affine_error_is_recovered_and_undone(sampler: Sampler) -> None:
    model = filled(tiny.unconditional_model(), 1.1, 0.02, sampler)
    regression = regression_of(model)
    known = len(regression.clock.known)
    assert torch.allclose(regression.slope[:known], torch.tensor(0.1), atol=1e-5)
    assert torch.allclose(regression.bias[:known], torch.tensor(0.02), atol=1e-5)
    assert torch.allclose(regression.std[:known], torch.tensor(0.0), atol=1e-5)
    plain = tiny.unconditional_model().generate((1, 2), None, sampler)
    assert torch.allclose(model.generate((1, 2), None, sampler), plain, atol=1e-5)


@pytest.mark.parametrize(
    ("t", "after", "eta", "expected"),
    [(951, 901, 0, -0.5973), (951, 901, 1, -0.9712), (451, 401, 0, -0.2621), (451, 401, 1, -0.4650)],
)
def test_the_noise_factor_has_its_closed_form_values(t: int, after: int, eta: int, expected: float) -> None:
    kept = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64).mul(-1).add(1).cumprod(0)
    a, b = float(kept[t]), float(kept[after])
    sigma_squared = eta * (1 - b) / (1 - a) * (1 - a / b)
    assert noise_factor(a, b, sigma_squared) == pytest.approx(expected, abs=2e-4)
    if eta:
        assert sigma_squared**0.5 == pytest.approx({951: 0.7797, 451: 0.5689}[t], abs=2e-4)


def test_residual_noise_shrinks_the_samplers_own_and_never_below_zero() -> None:
    model = tiny.unconditional_model()
    Ptqd(variance=True, sampler=STOCHASTIC).prepare(model)
    regression = regression_of(model)
    regression.clock.remember(torch.tensor([1.0, 999.0]))
    scheduler = STOCHASTIC.scheduler_for(model.pipeline)
    scheduler.set_timesteps(5)
    t = int(scheduler.timesteps[1])
    before = float(scheduler._get_variance(t, t - 200))
    for std, ratio in ((0.0, 1.0), (0.2, None), (50.0, 0.0)):
        regression.std.fill_(std)
        fresh = STOCHASTIC.scheduler_for(model.pipeline)
        fresh.set_timesteps(5)
        run = type("R", (), {"scheduler": fresh, "model": model})()
        Correction(1.0)(run)
        after = float(fresh._get_variance(t, t - 200))
        kept = fresh.alphas_cumprod
        expected = before - (noise_factor(float(kept[t]), float(kept[t - 200]), before) * std) ** 2
        assert after == pytest.approx(before * ratio if ratio is not None else expected, abs=1e-6)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_what_is_left_of_an_error_counts_as_it_reaches_the_next_x(kind: str) -> None:
    """Against diffusers' own step: an error of what is predicted, and the x that follows."""
    scheduler = STOCHASTIC.scheduler_for(tiny.unconditional_model().pipeline)
    scheduler.register_to_config(prediction_type=kind, clip_sample=False)
    scheduler.set_timesteps(5)
    t = int(scheduler.timesteps[1])
    x, output, noise = torch.randn(3, 1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    first, second = (
        scheduler.step(predicted, t, x, eta=1.0, variance_noise=noise).prev_sample
        for predicted in (output, output + 0.25)
    )
    kept, after = (float(scheduler.alphas_cumprod[one]) for one in (t, t - 200))
    variance = float(scheduler._get_variance(t, t - 200))
    reached = noise_factor(kept, after, variance) * noise_share(kind, kept) * (-1 if kind == "sample" else 1)
    assert torch.allclose(second - first, torch.full_like(x, 0.25 * reached), atol=1e-6)


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_the_variance_shrinks_by_what_reaches_the_next_x(kind: str) -> None:
    model = tiny.unconditional_model()
    model.pipeline.scheduler = tiny.scheduler(prediction_type=kind)
    Ptqd(variance=True, sampler=STOCHASTIC).prepare(model)
    regression = regression_of(model)
    regression.clock.remember(torch.tensor([1.0, 999.0]))
    regression.std.fill_(0.2)
    plain, shrunken = (STOCHASTIC.scheduler_for(model.pipeline) for _ in range(2))
    for scheduler in (plain, shrunken):
        scheduler.set_timesteps(5)
    Correction(1.0)(type("R", (), {"scheduler": shrunken, "model": model})())
    t = int(plain.timesteps[1])
    before, kept = float(plain._get_variance(t, t - 200)), plain.alphas_cumprod
    factor = noise_factor(float(kept[t]), float(kept[t - 200]), before) * noise_share(kind, float(kept[t]))
    assert float(shrunken._get_variance(t, t - 200)) == pytest.approx(before - (factor * 0.2) ** 2, abs=1e-6)


def test_a_network_that_predicts_no_noise_in_any_form_is_refused() -> None:
    model = tiny.unconditional_model()
    model.pipeline.scheduler.register_to_config(prediction_type="score")
    with pytest.raises(RequestError, match=r"DDPMScheduler|DDIMScheduler"):
        Ptqd(variance=True, sampler=STOCHASTIC).prepare(model)


def test_eta_zero_leaves_the_variance_alone() -> None:
    model = tiny.unconditional_model()
    Ptqd(variance=True, sampler=tiny.DDIM).prepare(model)
    assert [factory.eta for factory in model.wrapper_factories] == [0.0]


def test_it_brings_a_quantised_model_nearer_to_full_precision_and_is_restored() -> None:
    bits = ["methods.ptq.weight_bits=4", "methods.ptq.activation_bits=4"]
    config = Composer("config").compose(["method=[ptq,ptqd]", "sampler.steps=5", *bits, *QUICK_PTQ])
    methods = {name: construct(config.methods[name], f"methods.{name}") for name in ("ptq", "ptqd")}
    teacher = tiny.unconditional_model()
    student, plain = teacher.copy(), teacher.copy()
    state = compress(student, teacher, methods, lambda m: LazyCalls(CALIBRATION, m, tiny.DDIM), lambda *_: None)
    compress(plain, teacher, {"ptq": methods["ptq"]}, lambda m: LazyCalls(CALIBRATION, m, tiny.DDIM), lambda *_: None)
    call = next(iter(CALIBRATION.record(teacher, tiny.DDIM)))
    exact, rounded = (m.predict(call.x, call.t, call.cond) for m in (teacher, plain))
    corrected = regression_of(student).corrected(rounded, call.t)
    assert (corrected - exact).square().mean() < (rounded - exact).square().mean()
    again = teacher.copy()
    restore(again, methods, state)
    assert torch.equal(again.generate((1, 2), None, tiny.DDIM), student.generate((1, 2), None, tiny.DDIM))


def test_alone_it_is_refused() -> None:
    model = tiny.unconditional_model()
    method = Ptqd(variance=True, sampler=tiny.DDIM)
    method.prepare(model)
    with pytest.raises(RequestError, match="after the method that quantises"):
        method.calibrate(model, LazyCalls(CALIBRATION, model, tiny.DDIM))
