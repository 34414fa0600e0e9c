"""Stepwise correction: closed forms of the map of one step, layers' biases, and what it does to a trained model."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

import tiny
from composing import QUICK_PTQ
from parediff.calibration.base import LazyCalls
from parediff.calibration.uniform import Uniform
from parediff.config.compose import Composer
from parediff.config.construct import construct
from parediff.correction.affine import NAME, PairSums
from parediff.correction.layer_bias import NAME as BIASES
from parediff.correction.layer_bias import LayerBiases
from parediff.errors import RequestError
from parediff.models.diffusion.door import recording
from parediff.models.diffusion.load import PretrainedPipeline
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.pipeline.compress import compress
from parediff.quantization.layers import layers_of
from parediff.quantization.quantizer import bypassed

STEPS = replace(tiny.DDIM, steps=3)


def sums_of(quantized: Tensor, exact: Tensor) -> PairSums:
    sums = PairSums()
    for q, e in zip(quantized.split(3), exact.split(3), strict=True):
        sums.add(q, e)
    return sums


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_gain_and_an_offset_of_each_pixel_are_undone_exactly() -> None:
    exact, offsets = draws(50, 2, 4, 4), draws(2, 4, 4, seed=1)
    gains = torch.tensor([1.25, 0.8])[:, None, None]
    alpha, beta = sums_of((exact - offsets) / gains, exact).of_pixels()
    assert torch.allclose(alpha, gains, atol=1e-5)
    assert torch.allclose(beta, offsets, atol=1e-5)


def test_what_few_images_say_of_a_pixel_is_drawn_to_the_channel() -> None:
    """Noise without any offset of pixels: their means differ by chance alone."""
    exact = draws(20, 1, 8, 8)
    quantized = exact + 0.5 + 0.3 * draws(20, 1, 8, 8, seed=1)
    sums = sums_of(quantized, exact)
    alpha, of_pixels = sums.of_pixels()
    plain = (sums.e - alpha * sums.q) / sums.count
    assert float(of_pixels.std()) < 0.3 * float(plain.std())
    assert float(of_pixels.mean()) == pytest.approx(float(plain.mean()), abs=1e-5)
    alone = PairSums()
    alone.add(quantized[:1], exact[:1])
    assert float(alone.of_pixels()[1].std()) == 0


def test_offsets_of_pixels_far_above_the_noise_stay() -> None:
    exact, offsets = draws(200, 1, 8, 8), draws(1, 8, 8, seed=2)
    _, beta = sums_of(exact + offsets + 0.1 * draws(200, 1, 8, 8, seed=1), exact).of_pixels()
    assert torch.allclose(beta, -offsets, atol=0.05)


@cache
def quantised(layers: bool) -> tuple[DiffusionModel, dict]:
    """A corrected model and its methods; no test changes them."""
    asked = ["methods.ptq.weight_bits=3", "methods.ptq.activation_bits=4", f"methods.stepwise.layers={layers}"]
    config = Composer("config").compose(["method=[ptq,stepwise]", "sampler.steps=3", *asked, *QUICK_PTQ])
    methods = {name: construct(config.methods[name], name) for name in config.methods}
    model = tiny.unconditional_model()
    calls = LazyCalls(Uniform(10**9, 6, 3, 3), model.copy(), STEPS)
    compress(model, model.copy(), methods, lambda _: calls, lambda *_: None)
    return model, methods


def test_layers_biases_give_every_channel_its_mean_back() -> None:
    model, _ = quantised(True)
    biases = getattr(model.denoiser, BIASES)
    assert isinstance(biases, LayerBiases)
    with recording(model) as calls:
        model.generate((10**9, 10**9 + 1, 10**9 + 2), None, STEPS)
    first = calls[0]  # what the first step sees is the calibration's own noise
    twin = model.copy()
    own = getattr(twin.denoiser, BIASES)
    for one in layers_of(twin.denoiser).values():
        if hasattr(one, "unfold"):
            one.unfold()
    own.fit(twin.denoiser, len(own.tables[0]) - 1, [lambda: twin.predict(first.x, first.t, first.cond)])
    path = own.paths[-1]
    seen: list[Tensor] = []
    layer = twin.denoiser.get_submodule(path)
    with own.added(twin.denoiser, first.t):
        handle = layer.register_forward_hook(lambda _, __, output: seen.append(output.mean((0, 2, 3))))
        twin.predict(first.x, first.t, first.cond)
    with bypassed(twin.denoiser):
        twin.predict(first.x, first.t, first.cond)
    handle.remove()
    assert torch.allclose(seen[0], seen[1], atol=1e-5)
    assert all(not module._forward_hooks for module in twin.denoiser.modules())


@pytest.mark.parametrize("layers", [False, True])
def test_it_says_what_it_fitted(layers: bool) -> None:
    model, methods = quantised(layers)
    fired = methods["stepwise"].fired(model)
    assert fired["time_steps"] == 3
    assert fired["largest_beta"] > 0
    assert (fired["layers_with_biases"] > 0) == layers


def test_a_sampler_that_asks_twice_for_a_time_step_is_refused() -> None:
    config = Composer("config").compose(["method=[ptq,stepwise]", "sampler.steps=3", "sampler=heun", *QUICK_PTQ])
    methods = {name: construct(config.methods[name], name) for name in config.methods}
    model = tiny.unconditional_model()
    calls = LazyCalls(Uniform(10**9, 2, 2, 3), model.copy(), construct(config.sampler, "sampler"))
    with pytest.raises(RequestError, match="sampler=heun"):
        compress(model, model.copy(), methods, lambda _: calls, lambda *_: None)


@pytest.mark.parametrize("asked", [["sampler.eta=1"], ["sampler=euler_ancestral"]], ids=["eta", "ancestral"])
def test_under_guidance_and_with_noise_the_fitted_images_come_nearer(asked: list[str]) -> None:
    """On the seeds that it was fitted to."""
    settings = ["methods.ptq.weight_bits=2", "methods.ptq.activation_bits=3", "sampler.steps=4", *asked]
    config = Composer("config").compose(["method=[ptq,stepwise]", *settings, *QUICK_PTQ])
    methods = {name: construct(config.methods[name], name) for name in config.methods}
    sampler, teacher, seeds = (
        construct(config.sampler, "sampler"),
        tiny.dit_model(guidance_scale=2.0),
        range(10**9, 10**9 + 8),
    )
    errors = []
    for chosen in (["ptq"], ["ptq", "stepwise"]):
        student = teacher.copy()
        given = {name: methods[name] for name in chosen}
        compress(student, teacher, given, lambda m: LazyCalls(Uniform(10**9, 8, 3, 4), m, sampler), lambda *_: None)
        drawn = [m.generate(list(seeds), None, sampler) for m in (student, teacher)]
        errors.append(float((drawn[0] - drawn[1]).square().mean()))
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.slow
def test_on_the_trained_model_held_out_predictions_come_nearer() -> None:
    model = PretrainedPipeline(name="ddpm_digits", path="assets://ddpm_digits").load("cpu")
    sampler = Sampler(name="ddim", scheduler="DDIMScheduler", steps=10)
    calls = LazyCalls(Uniform(10**9, 48, 48, 10), model.copy(), sampler)
    settings = ["methods.ptq.weight_bits=4", "methods.ptq.activation_bits=4", "methods.ptq.values=4096"]
    config = Composer("config").compose(["method=[ptq,stepwise]", "sampler.steps=10", *settings])
    methods = {name: construct(config.methods[name], name) for name in config.methods}
    student = model.copy()
    compress(student, model, methods, lambda _: calls, lambda *_: None)
    with recording(student) as held_out:
        student.generate(range(24), None, sampler)
    table = student.denoiser.get_submodule(NAME)
    before = after = 0.0
    for call in held_out:
        exact, rounded = (one.predict(call.x, call.t, call.cond) for one in (model, student))
        before += float((rounded - exact).square().mean())
        after += float((table(rounded, call.t) - exact).square().mean())
    assert after < 0.9 * before
