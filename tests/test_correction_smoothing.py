"""Smoothing: exact in full precision, factors that widen nothing, and the gain that the algebra promises."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import tiny
from parediff.correction.factors import added, bounded, modulated
from parediff.correction.smoothing import (
    SmoothedDropout,
    calibrate_smoothing,
    fold,
    install_smoothing,
    sites,
    smoothing_factors,
)
from parediff.errors import RequestError
from parediff.models.diffusion.door import Call, recording
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.quantization.grid import Grid
from parediff.quantization.layers import QuantizedLayer
from parediff.quantization.quantizer import Quantizer, bypassed
from parediff.quantization.samples import Samples
from parediff.quantization.search import MinMax

SCALE_SHIFT = {"resnet_time_scale_shift": "scale_shift"}


def calls_of(model: DiffusionModel) -> list[Call]:
    with recording(model) as calls:
        model.generate([1, 2], ["a cat", "a dog"] if model.conditioning == "text" else None, tiny.DDIM)
    return calls


def make_time_matter(model: DiffusionModel) -> None:
    """Random norms and strong embeddings, so that factors are far from 1."""
    torch.manual_seed(5)
    for site in sites(model.denoiser):
        source = site.source
        assert isinstance(source, nn.Linear)
        nn.init.normal_(source.weight, std=2.0)
    for module in model.denoiser.modules():
        if isinstance(module, nn.GroupNorm):
            nn.init.normal_(module.weight, std=3.0)


def output(model: DiffusionModel, call: Call) -> Tensor:
    return model.predict(call.x, call.t, call.cond)


def quantized(layer: nn.Conv2d, x: Tensor, bits: int) -> QuantizedLayer:
    """Per-tensor min-max activations, full-precision weights."""
    quantizer = Quantizer(Grid(bits))
    quantizer.fill(MinMax().fit(Samples.of(x), quantizer.grid)[0].squeeze())
    return QuantizedLayer(layer, Quantizer(Grid(32)), quantizer)


@pytest.mark.parametrize(
    "build",
    [
        tiny.unconditional_model,
        lambda: tiny.unconditional_model(**SCALE_SHIFT),
        lambda: tiny.class_model(2.0),
        lambda: tiny.text_model(3.0),
        lambda: tiny.dit_model(2.0),
    ],
    ids=["additive", "scale_shift", "class", "text", "transformer"],
)
def test_q1_folding_leaves_the_full_precision_network_as_it_is(build: object) -> None:
    model = build()  # type: ignore[operator]
    make_time_matter(model)
    calls = calls_of(model)
    before = [output(model, call) for call in calls]
    install_smoothing(model)
    calibrate_smoothing(model, calls)
    factors = torch.cat(smoothing_factors(model.denoiser))
    assert (factors > 1.5).any()
    for call, expected in zip(calls, before, strict=True):
        error = (output(model, call) - expected).norm() / expected.norm()
        assert error < 1e-5


def test_q1_one_convolution_is_unchanged() -> None:
    conv, h = nn.Conv2d(6, 4, 3), torch.randn(2, 6, 5, 5)
    expected, smoothed = conv(h), SmoothedDropout(nn.Identity(), 6)
    fold(smoothed.factor, [conv], torch.linspace(1, 30, 6))
    assert torch.allclose(conv(smoothed(h)), expected, rtol=1e-5, atol=1e-5)


def test_q2_factors_of_one_change_no_bit() -> None:
    model = tiny.unconditional_model()
    before = model.generate([3], None, tiny.DDIM)
    install_smoothing(model)
    assert torch.equal(model.generate([3], None, tiny.DDIM), before)


@pytest.mark.parametrize("weight", [torch.zeros(8), -torch.rand(8) * 4, torch.randn(8) * 5])
def test_q3_factors_are_at_least_one_and_finite(weight: Tensor) -> None:
    norm = nn.GroupNorm(2, 8)
    norm.weight.data = weight
    factor = bounded(added(torch.randn(4, 8), norm).mean(dim=0))
    assert torch.isfinite(factor).all()
    assert (factor >= 1).all()


def test_q3_what_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        bounded(torch.tensor([1.0, float("nan")]))


def test_q4_an_embedding_that_is_constant_within_groups_gives_one() -> None:
    embedding = torch.tensor([[5.0, 5, 5, 5, -2, -2, -2, -2]])
    assert torch.equal(bounded(added(embedding, nn.GroupNorm(2, 8))[0]), torch.ones(8))


def test_the_additive_factor_is_the_papers_formula() -> None:
    norm = nn.GroupNorm(1, 4, eps=0.0)
    norm.weight.data = torch.tensor([1.0, 2.0, -3.0, 0.0])
    expected = torch.tensor([[3.0, 2.0, 3.0, 0.0]]) / 5**0.5  # (-3, -1, 1, 3) / sqrt(5) * gamma
    assert torch.allclose(added(torch.tensor([[1.0, 3.0, 5.0, 7.0]]), norm), expected)


def test_the_modulated_factor_is_the_papers_formula() -> None:
    assert torch.equal(modulated(torch.tensor([0.5, -3.0, -1.0])), torch.tensor([1.5, 2.0, 0.0]))


def test_factors_average_over_all_samples_of_all_calls() -> None:
    model = tiny.class_model()
    make_time_matter(model)
    calls = calls_of(model)
    seen: list[Tensor] = []
    site = sites(model.denoiser)[0]
    hook = site.source.register_forward_hook(lambda _, __, out: seen.append(out))
    for call in calls:
        output(model, call)
    hook.remove()
    install_smoothing(model)
    calibrate_smoothing(model, calls)
    expected = site.magnitudes(torch.cat(seen))[0].mean(dim=0).clamp_min(1)
    assert torch.allclose(site.factors[0], expected, rtol=1e-5)


def test_q5_one_step_on_the_smoothed_tensor_is_a_step_per_channel() -> None:
    h, factor, step = torch.randn(4, 8, 3, 3), torch.tensor([1.0, 2, 4, 8, 1, 16, 2, 1]), torch.tensor(0.125)
    shaped = factor.view(1, -1, 1, 1)
    whole, each = Quantizer(Grid(8)), Quantizer(Grid(8), axis=1, channels=8)
    whole.fill(step)
    each.fill(step * factor)
    assert torch.equal(whole(h / shaped) * shaped, each(h))


def outlier_gain(bits: int, *, gaussian: bool = False) -> float:
    """How much less a convolution errs with S = 16 on the one channel of 64 that is 16 times larger."""
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn if gaussian else torch.rand
    h = draw(16, 64, 32, 32, generator=generator)
    h = h if gaussian else 2 * h - 1
    h[:, 7] *= 16
    conv = nn.Conv2d(64, 32, 1, bias=False)
    weight = torch.randn(32, 64, 1, 1, generator=generator)
    conv.weight.data = weight / weight.norm(dim=0, keepdim=True)
    exact, plain = conv(h), quantized(conv, h, bits)(h)
    smoothed = SmoothedDropout(nn.Identity(), 64)
    fold(smoothed.factor, [conv], torch.where(torch.arange(64) == 7, 16.0, 1.0))
    repaired = quantized(conv, smoothed(h), bits)(smoothed(h))
    return float((plain - exact).square().mean() / (repaired - exact).square().mean())


def test_q6_an_outlier_channel_costs_what_the_law_says() -> None:
    with torch.no_grad():
        assert outlier_gain(8) == pytest.approx(64 / (1 + 63 / 256), rel=0.1)


def test_q6_at_four_bits_small_channels_round_to_zero_and_the_law_fails() -> None:
    with torch.no_grad():
        assert outlier_gain(4) == pytest.approx(39, rel=0.1)
        assert 4 < outlier_gain(4, gaussian=True) < 7  # 4.6 with very many samples: the range grows with their number


def test_switching_quantisers_off_gives_the_original_function() -> None:
    model = tiny.unconditional_model()
    make_time_matter(model)
    calls = calls_of(model)
    expected = output(model, calls[0])
    install_smoothing(model)
    calibrate_smoothing(model, calls)
    block = sites(model.denoiser)[0].block
    block.conv2 = quantized(block.conv2, torch.randn(2, 8, 8, 8), 4)
    assert not torch.allclose(output(model, calls[0]), expected, rtol=1e-3)
    with bypassed(model.denoiser):
        assert torch.allclose(output(model, calls[0]), expected, rtol=1e-4, atol=1e-5)


def test_calibrating_twice_does_not_fold_twice() -> None:
    model = tiny.unconditional_model()
    make_time_matter(model)
    calls = calls_of(model)
    install_smoothing(model)
    calibrate_smoothing(model, calls)
    once = {key: value.clone() for key, value in model.denoiser.state_dict().items()}
    calibrate_smoothing(model, calls)
    assert all(torch.allclose(value, once[key], rtol=1e-5) for key, value in model.denoiser.state_dict().items())


def test_half_the_strength_is_the_square_root() -> None:
    assert torch.allclose(bounded(torch.tensor([0.5, 4.0, 9.0]), 0.5), torch.tensor([1.0, 2.0, 3.0]))


def test_smoothing_after_quantisation_is_refused() -> None:
    model = tiny.unconditional_model()
    block = sites(model.denoiser)[0].block
    block.conv2 = quantized(block.conv2, torch.randn(2, 8, 8, 8), 4)
    with pytest.raises(RequestError, match="before every method that quantises"):
        install_smoothing(model)


def test_a_network_without_a_place_is_refused() -> None:
    model = tiny.unconditional_model()
    model.denoiser = nn.Conv2d(1, 1, 1)
    with pytest.raises(RequestError, match="residual blocks that take in the time"):
        install_smoothing(model)
