"""The noise proxy against its closed forms: Shin et al. 2022, with the reference values of the specification."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from parediff.errors import RequestError
from parediff.quantization.arithmetic import fake_quantize
from parediff.quantization.grid import SILU_MINIMUM, Grid, Kind
from parediff.quantization.noise import (
    KINDS,
    BitRange,
    Histogram,
    Noise,
    NoiseQuantizer,
    Uniform,
    add_noise,
    inverse_softplus,
    levels,
)

RANGE = BitRange(2, 14, 8.0)


class Silence(Noise):
    """u = 0."""

    def draw(self, x: Tensor, step: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return torch.zeros_like(x)


def quantizer(
    *, bits: int | None = None, clip: float = 2.0, kind: Kind = "symmetric", noise: Noise | None = None
) -> NoiseQuantizer:
    module = NoiseQuantizer(RANGE, noise or Uniform())
    module.fill(torch.tensor(clip), kind)
    if bits is not None:
        module.fix(bits)
    return module


def kolmogorov_smirnov(samples: Tensor) -> float:
    """Largest distance between the samples' distribution and U(-1/2, 1/2)."""
    ordered = samples.flatten().sort().values + 0.5
    ranks = torch.arange(1, len(ordered) + 1) / len(ordered)
    return float((ordered - ranks).abs().max())


def test_n1_bits_start_at_eight_and_never_leave_their_range() -> None:
    module = NoiseQuantizer(RANGE, Uniform())
    assert float(module.theta_bits.detach()) == 0
    assert float(module.continuous_bits().detach()) == pytest.approx(8, abs=1e-6)
    for theta in (-1e4, -3.0, 0.4, 7.0, 1e4):
        module.theta_bits.data.fill_(theta)
        assert 2 <= float(module.continuous_bits().detach()) <= 14


@pytest.mark.parametrize("bits", [2, 3, 8, 14])
def test_n1_a_fixed_width_is_reproduced_at_the_ends_of_the_range_too(bits: int) -> None:
    module = quantizer(bits=bits)
    assert float(module.continuous_bits()) == pytest.approx(bits, abs=1e-6)
    assert module.bits == bits


@pytest.mark.parametrize("start", [2.5, 4.0, 9.3])
def test_n1_training_can_start_from_other_bits(start: float) -> None:
    module = NoiseQuantizer(BitRange(2, 14, start), Uniform())
    assert float(module.continuous_bits().detach()) == pytest.approx(start, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_n2_evaluation_is_the_plain_quantiser(kind: Kind, bits: int) -> None:
    module = quantizer(bits=bits, clip=1.7, kind=kind).eval()
    x = 3 * torch.randn(4096)
    n = 2 ** (bits - 1) - 1 if kind == "symmetric" else 2**bits - 1
    offset = SILU_MINIMUM if kind == "shifted" else 0.0
    step = module.clip.detach() / n
    by_hand = step * ((x - offset) / step).round().clamp(-n if kind == "symmetric" else 0, n) + offset
    assert torch.equal(module(x), by_hand)
    assert torch.equal(module.ordinary()(x), module(x))


def test_n2_evaluation_before_the_switch_rounds_too() -> None:
    module = quantizer(clip=1.7).eval()
    x = torch.randn(1000)
    expected = fake_quantize(x, module.clip.detach() / 127, None, Grid(8))
    assert torch.equal(module(x), expected)


@pytest.mark.parametrize("noise", [Uniform(), Histogram()])
def test_n3_noise_stays_within_half_a_step_and_clipped_values_are_the_boundary(noise: Noise) -> None:
    module = quantizer(bits=4, clip=1.5, noise=noise)
    x = torch.randn(100_000)
    noisy, a = module(x).detach(), module.clip.detach()
    step, inside = a / 7, x.abs() < a
    slack = 1e-6  # of adding in float32
    assert float((noisy - x)[inside].abs().max()) <= float(step) / 2 + slack
    assert torch.equal(noisy[x >= a], torch.full_like(noisy[x >= a], float(a)))
    assert torch.equal(noisy[x <= -a], torch.full_like(noisy[x <= -a], -float(a)))


def test_n4_without_noise_only_clipping_is_left() -> None:
    module = quantizer(bits=4, clip=1.5, noise=Silence())
    x = torch.randn(10_000)
    a = float(module.clip.detach())
    assert torch.equal(module(x), x.clamp(-a, a))


def test_n4_fourteen_bits_lose_next_to_nothing() -> None:
    x = torch.randn(10_000)
    module = quantizer(bits=14, clip=float(x.abs().max()) * 1.0001)
    assert float((module(x).detach() - x).norm() / x.norm()) < 1e-3


def test_n5_noise_has_no_mean_and_the_variance_of_rounding() -> None:
    module = quantizer(bits=3, clip=1.5)
    x = torch.full((1_000_000,), 0.4)
    noisy = module(x).detach().double()
    step = float(module.clip.detach()) / 3
    assert float(noisy.mean()) == pytest.approx(0.4, rel=0.01)
    assert float(noisy.var()) == pytest.approx(step**2 / 12, rel=0.01)


@pytest.mark.parametrize(
    ("bits", "clip", "for_clip", "for_bits"),
    [(4, 2.0, -0.0275, -0.01029), (3, 1.5, -0.0932, -0.0334)],
)
def test_n6_gradients_of_clip_and_bits_are_the_published_ones(
    bits: int, clip: float, for_clip: float, for_bits: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4_000_000, generator=generator)
    u = torch.rand(x.shape, generator=generator) - 0.5
    a, b = torch.tensor(clip, requires_grad=True), torch.tensor(float(bits), requires_grad=True)
    noisy = add_noise(x, a / levels(b, signed=True), a, u, one_sided=False)
    (noisy - x).square().mean().backward()
    assert float(a.grad) == pytest.approx(for_clip, rel=0.02)  # type: ignore[arg-type]
    assert float(b.grad) == pytest.approx(for_bits, rel=0.02)  # type: ignore[arg-type]


@pytest.mark.parametrize("signed", [True, False])
def test_n6_every_gradient_is_the_closed_form(signed: bool) -> None:
    bits = 4
    x = torch.linspace(-3, 3, 61, dtype=torch.float64, requires_grad=True)
    u = torch.linspace(-0.5, 0.5, 61, dtype=torch.float64)
    a = torch.tensor(1.55, dtype=torch.float64, requires_grad=True)
    b = torch.tensor(float(bits), dtype=torch.float64, requires_grad=True)
    upstream = torch.cos(torch.arange(61, dtype=torch.float64))
    noisy = add_noise(x, a / levels(b, signed=signed), a, u, one_sided=not signed)
    (noisy * upstream).sum().backward()
    n, k = (2 ** (bits - 1) - 1, 2 ** (bits - 1)) if signed else (2**bits - 1, 2**bits)
    low = -1.55 if signed else 0.0
    inside, above, below = (x > low) & (x < 1.55), x >= 1.55, x <= low
    expected_a = (upstream * (inside * u / n + above.double() - (below.double() if signed else 0.0))).sum()
    expected_b = (upstream * inside * -u * 1.55 * math.log(2) * k / n**2).sum()
    torch.testing.assert_close(x.grad, upstream * inside)
    torch.testing.assert_close(a.grad, expected_a.detach())
    torch.testing.assert_close(b.grad, expected_b.detach())


def test_n6_bits_move_by_the_slope_of_the_sigmoid() -> None:
    module = NoiseQuantizer(RANGE, Uniform())
    module.continuous_bits().backward()
    assert float(module.theta_bits.grad) == pytest.approx(3.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(("bits", "reached", "rate"), [(3, 1.988, 3.0), (4, 2.487, 10.0), (8, 3.921, 1500.0)])
def test_n7_sgd_on_the_proxy_finds_the_published_boundary(bits: int, reached: float, rate: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2_000_000, generator=generator)
    a = torch.tensor(reached * 1.15, requires_grad=True)
    n = levels(torch.tensor(float(bits)), signed=True)
    visited = []
    for step in range(100):
        batch = x[(step % 10) * 200_000 :][:200_000]
        u = torch.rand(batch.shape, generator=generator) - 0.5
        (gradient,) = torch.autograd.grad((add_noise(batch, a / n, a, u, one_sided=False) - batch).square().mean(), a)
        with torch.no_grad():
            a -= rate * gradient
        visited.append(float(a.detach()))
    assert sum(visited[-40:]) / 40 == pytest.approx(reached, rel=0.01)


def test_n11_stochastic_bits_are_right_on_average() -> None:
    module = NoiseQuantizer(BitRange(2, 14, 4.3), Uniform())
    drawn = torch.stack([module.sampled_bits().detach() for _ in range(4_000)])
    assert set(drawn.tolist()) == {4.0, 5.0}
    assert float(drawn.mean()) == pytest.approx(4.3, rel=0.01)


def test_n11_the_gradient_of_a_drawn_width_is_one() -> None:
    module = NoiseQuantizer(RANGE, Uniform())
    module.sampled_bits().backward()
    assert float(module.theta_bits.grad) == pytest.approx(3.0)  # type: ignore[arg-type]


def test_n12_uniform_values_have_uniform_errors() -> None:
    one = torch.ones(())
    drawn = torch.cat([Histogram().draw(20 * torch.rand(20_000) - 10, one * 0.7, -one * 9, one * 9) for _ in range(10)])
    assert kolmogorov_smirnov(drawn) < 1.63 / math.sqrt(len(drawn)) + 0.004  # the 1 % level, and a bin's width


def test_n12_values_on_the_grid_have_no_error() -> None:
    one = torch.ones(())
    x = 0.5 * torch.randint(-5, 6, (10_000,)).float()
    drawn = Histogram().draw(x, one * 0.5, -one * 4, one * 4)
    assert float(drawn.abs().max()) <= 1 / 256


def test_n12_where_everything_is_clipped_the_noise_falls_back_to_uniform() -> None:
    one = torch.ones(())
    drawn = Histogram().draw(torch.full((20_000,), 5.0), one, -one, one)
    assert kolmogorov_smirnov(drawn) < 0.02


@pytest.mark.parametrize("phase", ["noise", "rounding"])
def test_n15_an_unsigned_quantiser_ignores_negative_inputs(phase: str) -> None:
    module = quantizer(bits=4, kind="unsigned")
    if phase == "rounding":
        module.freeze()
    x = -torch.rand(1000)
    x.requires_grad_(True)
    out = module(x)
    out.sum().backward()
    assert torch.equal(out, torch.zeros_like(out))
    assert torch.equal(x.grad, torch.zeros_like(x))  # type: ignore[arg-type]
    assert float(module.theta_clip.grad) == 0  # type: ignore[arg-type]


def test_a_shifted_quantiser_clips_at_the_minimum_of_silu() -> None:
    module = quantizer(bits=4, clip=2.0, kind="shifted", noise=Silence())
    x = torch.tensor([-5.0, SILU_MINIMUM, 0.0, 1.0, 2.0, 9.0])
    torch.testing.assert_close(module(x).detach(), x.clamp(SILU_MINIMUM, 2.0 + SILU_MINIMUM))


def test_the_second_phase_rounds_in_training_and_still_learns_the_boundary() -> None:
    module = quantizer(bits=3)
    module.freeze()
    module.train()
    x = torch.randn(1000)
    out = module(x)
    assert torch.equal(out, module.eval()(x))
    out.square().sum().backward()
    assert module.theta_bits.grad is None
    assert float(module.theta_clip.grad.abs()) > 0  # type: ignore[union-attr]


def test_the_boundary_starts_where_it_is_put() -> None:
    for boundary in (1e-6, 0.03, 1.0, 50.0):
        assert float(quantizer(clip=boundary).clip.detach()) == pytest.approx(boundary, rel=1e-4)
    assert math.log1p(math.exp(inverse_softplus(0.1))) == pytest.approx(0.1)


def test_a_thirty_two_bit_or_uncalibrated_quantiser_passes_everything_bit_by_bit() -> None:
    x = torch.randn(100)
    assert torch.equal(quantizer(bits=32)(x), x)
    fresh = NoiseQuantizer(RANGE, Uniform())
    assert torch.equal(fresh(x), x)
    assert fresh.bits == 32


@pytest.mark.parametrize(
    ("low", "high", "start", "key"), [(8, 4, 6.0, "bits_max"), (1, 4, 3.0, "bits_min"), (2, 14, 14.0, "bits_start")]
)
def test_a_range_that_is_none_is_refused(low: int, high: int, start: float, key: str) -> None:
    with pytest.raises(RequestError, match=key):
        BitRange(low, high, start)
