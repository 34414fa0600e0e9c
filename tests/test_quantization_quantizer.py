"""Quantisers: the algebra of section 1, its gradients, and when they stay out of the way."""

import copy

import pytest
import torch
from torch import nn

import tiny
from parediff.quantization.arithmetic import fake_quantize
from parediff.quantization.grid import SMALLEST_STEP, Grid
from parediff.quantization.quantizer import Quantizer, bypassed
from parediff.quantization.samples import Samples
from parediff.quantization.search import MinMax
from parediff.quantization.sources import Learned, Static, StepSource

KINDS = ["symmetric", "symmetric_negative", "narrow", "unsigned", "shifted", "shifted_narrow", "affine"]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def filled(grid: Grid, x: torch.Tensor, axis: int | None = None, shrink: float = 1.0) -> Quantizer:
    quantizer = Quantizer(grid, axis=axis, channels=None if axis is None else x.shape[axis])
    step, zero = MinMax().fit(Samples.of(x, axis), grid)
    quantizer.fill(*(value if value is None or axis is not None else value[0] for value in (step * shrink, zero)))
    return quantizer


def by_the_book(x, step, zero, grid):
    """The formulas of the table in section 1, one operation after the other."""
    if grid.kind == "affine":
        return step * (torch.clamp(torch.round(x / step) + zero, grid.low, grid.high) - zero)
    if grid.offset:
        return step * torch.clamp(torch.round((x - grid.offset) / step), grid.low, grid.high) + grid.offset
    return step * torch.clamp(torch.round(x / step), grid.low, grid.high)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("axis", [None, 1])
def test_values_equal_the_formula_bit_for_bit_with_and_without_gradient(kind, bits, axis):
    x = noise(4, 6, 5, 5)
    quantizer = filled(Grid(bits, kind), x, axis, shrink=0.7)
    step, zero = quantizer.parameters_for(x)
    expected = by_the_book(x, step, zero, quantizer.grid)
    with torch.no_grad():
        fast = quantizer(x)
    slow = quantizer(x.clone().requires_grad_())
    assert torch.equal(fast, expected)
    assert torch.equal(slow.detach(), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_input_itself_is_never_written_to(kind):
    x = noise(3, 7)
    before = x.clone()
    filled(Grid(4, kind), x)(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_quantising_twice_changes_nothing_more(kind, bits):
    x = noise(5000) * 3
    quantizer = filled(Grid(bits, kind), x, shrink=0.6)
    once = quantizer(x)
    assert torch.equal(quantizer(once), once)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [3, 4, 6])
def test_there_are_no_more_values_than_levels(kind, bits):
    x = noise(20_000) * 3
    quantizer = filled(Grid(bits, kind), x, shrink=0.8)
    values = quantizer(x).unique()
    assert len(values) <= quantizer.grid.levels <= 2**bits
    if kind in ("symmetric", "affine"):
        assert len(values) == quantizer.grid.levels


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_is_half_a_step_inside_and_clipped_values_stand_at_the_ends(kind):
    x = noise(20_000) * 3
    quantizer = filled(Grid(5, kind), x, shrink=0.5)
    step, zero = quantizer.parameters_for(x)
    low, high = quantizer.grid.span(step, zero)
    rounded, inside = quantizer(x), (x > low) & (x < high)
    assert (rounded - x)[inside].abs().max() <= step / 2 * (1 + 1e-5)
    assert torch.allclose(rounded[x >= high], high, rtol=1e-6)
    assert torch.allclose(rounded[x <= low], low, rtol=1e-6)
    if kind == "symmetric":
        assert high == pytest.approx((step * quantizer.grid.high).item(), rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axis", [None, 0])
def test_integers_stay_in_range_and_dequantise_to_the_same_values(kind, axis):
    x = noise(6, 300)
    quantizer = filled(Grid(4, kind), x, axis, shrink=0.7)
    codes = tiny.integers(quantizer, x)
    assert codes.integers.dtype == torch.int32
    assert codes.integers.min() >= quantizer.grid.low
    assert codes.integers.max() <= quantizer.grid.high
    assert torch.equal(codes.dequantize(), quantizer(x))
    if codes.zero_point is not None:
        assert torch.equal(codes.zero_point, codes.zero_point.round())


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("bias", [0.0, 0.9])
def test_the_step_gradient_is_the_formula_of_lsq(bits, bias):
    grid = Grid(bits)
    x, upstream = noise(4000).double() * 2, noise(4000, seed=1).double()
    x[:3] = torch.tensor([grid.high * 0.5, -grid.high * 0.5, (grid.high - 0.25 + bias) * 0.5])
    step = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    x.requires_grad_()
    (fake_quantize(x, step, None, grid) * upstream).sum().backward()
    v, q = (x / step).detach(), grid.high
    slope = torch.where(v >= q, float(q), torch.where(v <= -q, float(-q), v.round() - v))
    assert step.grad.item() == pytest.approx((upstream * slope).sum().item(), rel=1e-6)
    assert torch.equal(x.grad, upstream * ((v > -q) & (v < q)))


def test_shifted_and_affine_gradients_agree_with_finite_differences():
    """With rounding held fixed (v = x / step far from ties moves nothing), xhat is linear in step and zero point."""
    x = noise(500).double()
    for kind, zero in (("shifted", None), ("affine", torch.tensor(3.0, dtype=torch.float64))):
        grid, step = Grid(3, kind), torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
        fake_quantize(x, step, zero, grid).sum().backward()
        v = (x - grid.offset) / 0.4
        low, high = (grid.low, grid.high) if zero is None else (grid.low - zero, grid.high - zero)
        inside = (v > low) & (v < high)
        by_hand = torch.where(inside, v.round() - v, v.round().clamp(low, high)).sum()
        assert step.grad.item() == pytest.approx(by_hand.item(), rel=1e-6)


@pytest.mark.parametrize("zero_point", [None, torch.tensor(5.0), torch.full((6, 1), 5.0)])
def test_what_lies_on_the_grids_ends_or_beyond_passes_no_gradient(zero_point):
    grid = Grid(3, "affine")
    codes = torch.tensor([-0.1, 0.0, 0.1, 3.4, 6.9, 7.0, 7.1]).repeat(6, 1)
    x = ((codes - (0 if zero_point is None else 5)) * 0.5).requires_grad_()
    upstream = noise(6, 7)
    (fake_quantize(x, torch.tensor(0.5), zero_point, grid) * upstream).sum().backward()
    assert torch.equal(x.grad, upstream * torch.tensor([0.0, 0, 1, 1, 1, 0, 0]))


def test_each_sample_may_have_a_step_of_its_own():
    x = noise(3, 4, 5)
    steps = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1).requires_grad_()
    together = fake_quantize(x, steps, None, Grid(4))
    together.sum().backward()
    for index in range(3):
        alone_step = steps[index, 0, 0].detach().clone().requires_grad_()
        alone = fake_quantize(x[index], alone_step, None, Grid(4))
        alone.sum().backward()
        assert torch.equal(alone, together[index])
        assert steps.grad[index].item() == pytest.approx(alone_step.grad.item(), rel=1e-5)


def test_the_gradient_scale_of_lsq_multiplies_the_step_gradient_only():
    x = noise(8, 50)
    grids = Grid(4)
    plain = Learned(None, zero_point=False)
    scaled = Learned(None, zero_point=False, gradient_levels=grids.high)
    per_sample = Learned(None, zero_point=False, gradient_levels=grids.high, batched=True)
    for source in (plain, scaled, per_sample):
        source.fill(torch.tensor(0.3), None)
        fake_quantize(x, *source(x), grids).pow(2).sum().backward()
    assert torch.equal(plain(x)[0], scaled(x)[0])
    assert scaled.raw.grad.item() == pytest.approx(plain.raw.grad.item() / (400 * 7) ** 0.5, rel=1e-6)
    assert per_sample.raw.grad.item() == pytest.approx(plain.raw.grad.item() / (50 * 7) ** 0.5, rel=1e-6)


def test_a_learned_step_cannot_turn_the_grid_around():
    source = Learned(None, zero_point=False)
    source.fill(torch.tensor(-0.25), None)
    assert source(noise(3))[0].item() == 0.25
    source.fill(torch.tensor(0.0), None)
    assert source(noise(3))[0].item() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_are_rounded_in_float32(dtype):
    x = (noise(4000) * 3).to(dtype)
    quantizer = filled(Grid(10, "affine"), x.float())
    rounded = quantizer(x)
    assert rounded.dtype == dtype
    assert torch.equal(rounded, quantizer(x.float()).to(dtype))
    assert (rounded.float() - x.float()).abs().max() < 0.05


def test_casting_the_model_leaves_steps_in_float32():
    quantizer = filled(Grid(4, "affine"), noise(100))
    before = copy.deepcopy(quantizer.state_dict())
    cast = nn.Sequential(nn.Linear(2, 2), quantizer).to(torch.bfloat16)
    assert cast[0].weight.dtype == torch.bfloat16
    assert all(torch.equal(value, before[key]) for key, value in quantizer.state_dict().items())
    assert quantizer.source.step.dtype == torch.float32


def test_32_bits_pass_everything_bit_by_bit_even_when_filled():
    x = noise(100) * 1e6
    quantizer = Quantizer(Grid(32))
    quantizer.fill(torch.tensor(0.1))
    assert quantizer(x) is x
    assert quantizer.bits == 32


def test_an_uncalibrated_quantiser_passes_and_declares_32_bits():
    x = noise(100)
    quantizer = Quantizer(Grid(4))
    assert quantizer(x) is x
    assert quantizer.bits == 32
    quantizer.fill(torch.tensor(0.5))
    assert not torch.equal(quantizer(x), x)
    assert quantizer.bits == 4


def test_switching_off_gives_the_input_back_and_leaves_nothing_switched():
    x = noise(100)
    quantizer = filled(Grid(4), x)
    quantizer.freeze()
    with bypassed(nn.Sequential(quantizer)):
        assert quantizer(x) is x
    assert not torch.equal(quantizer(x), x)


@pytest.mark.parametrize("kind", KINDS)
def test_constant_zero_data_gives_zeros_and_is_flagged(kind):
    x = torch.zeros(50)
    quantizer = filled(Grid(4, kind), x)
    assert torch.isfinite(quantizer(x)).all()
    assert bool(quantizer.source(x)[0] <= SMALLEST_STEP) == (not kind.startswith("shifted"))


def test_a_step_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="NaN or infinity"):
        Quantizer(Grid(4)).fill(torch.tensor(float("nan")))


def test_state_has_its_final_shape_from_the_start_and_survives_a_round_trip():
    x = noise(6, 30)
    trained, fresh = filled(Grid(4, "affine"), x, axis=0), Quantizer(Grid(4, "affine"), axis=0, channels=6)
    fresh.freeze()
    fresh.load_state_dict(trained.state_dict())
    assert fresh.bits == 4
    assert torch.equal(fresh(x), trained(x))


def test_another_source_of_steps_needs_no_change_to_the_quantiser():
    class ByLargest(StepSource):
        timed = True  # a row for each sample

        def forward(self, x):
            return x.detach().flatten(1).abs().amax(1) / 7, None

        def fill(self, step, zero_point):
            """Nothing is learned."""

    x = noise(3, 10) * torch.tensor([[1.0], [10.0], [100.0]])
    quantizer = Quantizer(Grid(4), source=ByLargest())
    quantizer.fill(torch.tensor(1.0))
    assert torch.allclose(quantizer(x).abs().amax(1), x.abs().amax(1))


def test_a_static_step_is_a_buffer_and_a_learned_one_a_parameter():
    assert not list(Static(None, zero_point=True).parameters())
    assert [name for name, _ in Learned(3, zero_point=True).named_parameters()] == ["raw"]


def test_groups_of_channels_share_an_interval_along_images_and_sequences():
    groups = torch.tensor([0.1, 1.0])
    for axis, x in ((1, noise(2, 4, 3, 3)), (-1, noise(2, 5, 4))):
        quantizer = Quantizer(Grid(4), axis=axis, channels=2)
        quantizer.fill(groups)
        by_hand = [fake_quantize(x.movedim(axis, 0)[i], groups[i // 2], None, Grid(4)) for i in range(4)]
        assert torch.equal(quantizer(x), torch.stack(by_hand).movedim(0, axis))
    quantizer.take(Samples.of(noise(6, 4), -1, groups=2), MinMax())
    assert quantizer.source.step.shape == (2,)


def test_a_grid_around_a_learned_number_moves_with_it_and_its_gradient_is_the_share_that_is_clipped():
    quantizer = Quantizer(Grid(4), centred=True)
    quantizer.fill(torch.tensor(0.5))
    quantizer(torch.tensor([0.1, 0.7, 50.0, 60.0, -70.0])).sum().backward()
    assert float(quantizer.beta.grad) == pytest.approx(3.0)
    quantizer.beta.data.fill_(3.0)
    values = torch.tensor([3.0, 3.2, 3.3, -100.0, 100.0])
    assert torch.allclose(quantizer(values), torch.tensor([3.0, 3.0, 3.5, -0.5, 6.5]))


def test_what_is_kept_of_a_fixed_interval_moves_with_its_source():
    quantizer = filled(Grid(4), noise(3, 7))
    quantizer.freeze()
    with torch.no_grad():
        quantizer(noise(3, 7))
    assert quantizer.source.fixed(quantizer.grid)[0].device.type == "cpu"
    assert quantizer.source.to("meta").fixed(quantizer.grid)[0].device.type == "meta"
