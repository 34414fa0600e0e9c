"""Searches: the closed-form optima for a normal distribution, and bounded, deterministic sampling."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from parediff.quantization.arithmetic import fake_quantize
from parediff.quantization.grid import Grid
from parediff.quantization.quantizer import Quantizer
from parediff.quantization.samples import Reservoir, Samples, observing
from parediff.quantization.search import BiasedError, MinMax, Percentile, PowerError, SearchSettings, Shrink

# step, mean squared error of the best step for N(0, 1); unsigned: for max(0, x)
OPTIMA = {
    ("symmetric", 2): (1.22408, 0.190174),
    ("symmetric", 3): (0.65074, 0.046860),
    ("symmetric", 4): (0.35340, 0.012889),
    ("symmetric", 5): (0.19325, 0.003693),
    ("symmetric", 6): (0.10548, 0.001069),
    ("symmetric", 8): (0.03087, 0.000088),
    ("narrow", 3): (0.84300, 0.082178),
    ("narrow", 4): (0.39716, 0.016453),
    ("narrow", 5): (0.20442, 0.004146),
    ("narrow", 6): (0.10847, 0.001132),
    ("narrow", 8): (0.03109, 0.000090),
    ("unsigned", 2): (0.65074, 0.023430),
    ("unsigned", 3): (0.35340, 0.006445),
    ("unsigned", 4): (0.19325, 0.001847),
    ("unsigned", 6): (0.05726, 0.000154),
    ("unsigned", 8): (0.01653, 0.000013),
}
PRINTED_TO = 1e-6
MSE = SearchSettings().named("mse")


@pytest.fixture(scope="module")
def normal():
    return torch.randn(10**6, generator=torch.Generator().manual_seed(0))


def error(x, step, zero, grid):
    return (fake_quantize(x, step, zero, grid) - x).double().pow(2).mean().item()


@pytest.mark.parametrize(("kind", "bits"), OPTIMA)
def test_the_mse_search_finds_the_published_optimum(normal, kind, bits):
    x, grid = normal.clamp_min(0) if kind == "unsigned" else normal, Grid(bits, kind)
    step, zero = MSE.fit(Samples.of(x), grid)
    best_step, best_error = OPTIMA[kind, bits]
    assert step.item() == pytest.approx(best_step, rel=0.01 if bits < 8 else 0.03)  # where the optimum is flat
    assert error(x, step, zero, grid) == pytest.approx(best_error, rel=0.01, abs=PRINTED_TO)


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_half_a_normal_on_the_unsigned_grid_is_worth_one_more_bit(normal, bits):
    signed, unsigned = Grid(bits + 1), Grid(bits, "unsigned")
    both = torch.cat([normal, -normal])
    wide, _ = MSE.fit(Samples.of(both, capacity=2**21), signed)
    half, _ = MSE.fit(Samples.of(both.clamp_min(0), capacity=2**21), unsigned)
    assert half.item() == pytest.approx(wide.item(), rel=0.01)
    assert error(both.clamp_min(0), half, None, unsigned) == pytest.approx(
        error(both, wide, None, signed) / 2, rel=0.01
    )


def test_a_fine_step_without_clipping_leaves_uniform_noise(normal):
    step = torch.tensor(0.01)
    assert error(normal, step, None, Grid(16)) == pytest.approx(0.01**2 / 12, rel=0.01)


def test_each_channel_is_searched_on_its_own():
    x = torch.randn(5, 20_000, generator=torch.Generator().manual_seed(1)) * torch.tensor([[1.0, 2, 4, 8, 16]]).T
    grid = Grid(4)
    together, _ = MSE.fit(Samples.of(x, axis=0), grid)
    alone = [MSE.fit(Samples.of(row), grid)[0].item() for row in x]
    assert together.tolist() == pytest.approx(alone, rel=1e-5)
    assert (together / torch.tensor([1.0, 2, 4, 8, 16])).tolist() == pytest.approx([0.3534] * 5, rel=0.04)


@pytest.mark.parametrize("kind", ["symmetric", "unsigned", "shifted", "affine"])
@pytest.mark.parametrize("exponent", [1.0, 2.0, 2.4])
def test_no_other_candidate_scores_better_than_the_one_found(normal, kind, exponent):
    x = F.silu(normal[:50_000] * 2)
    grid, score = Grid(4, kind), PowerError(exponent)
    step, zero = SearchSettings(exponent=exponent).named("mse").fit(Samples.of(x), grid)
    found = score(x[None], fake_quantize(x[None], step, zero, grid), None, None)
    for factor in torch.linspace(0.02, 1.2, 60):
        other, other_zero = grid.fit(x.min() * factor, x.max() * factor)
        assert found <= score(x[None], fake_quantize(x[None], other, other_zero, grid), None, None) * 1.001


def test_an_affine_search_moves_the_ends_apart(normal):
    """Post-SiLU data: shrinking both ends alike would cut the short negative side for nothing."""
    x, grid = F.silu(normal * 2), Grid(4, "affine")
    free = MSE.fit(Samples.of(x), grid)
    tied = Shrink(PowerError(), rounds=0).fit(Samples.of(x), grid)
    assert error(x, *free, grid) < 0.9 * error(x, *tied, grid)
    assert error(x, *free, grid) < error(x, *MSE.fit(Samples.of(x), Grid(4)), Grid(4))


def test_symmetric_grids_lose_about_a_bit_on_data_after_silu(normal):
    x = F.silu(normal * 3)
    errors = {
        (kind, bits): error(x, *MSE.fit(Samples.of(x), Grid(bits, kind)), Grid(bits, kind))
        for kind, bits in (("symmetric", 4), ("symmetric", 5), ("shifted", 4), ("affine", 4))
    }
    assert errors["shifted", 4] < 0.5 * errors["symmetric", 4]
    assert errors["affine", 4] < 0.5 * errors["symmetric", 4]
    assert errors["symmetric", 5] < 1.2 * errors["affine", 4]


def test_a_heavy_tail_is_followed_below_the_smallest_factor():
    x = torch.cat([torch.randn(100_000, generator=torch.Generator().manual_seed(2)), torch.tensor([100.0])])
    grid = Grid(8)
    step, _ = MSE.fit(Samples.of(x), grid)
    steps = torch.linspace(0.02, 100 / 127, 400)
    best = min(error(x, candidate, None, grid) for candidate in steps)
    assert error(x, step, None, grid) <= best * 1.01


def test_min_max_spans_what_was_seen_and_percentile_leaves_the_tail_out(normal):
    samples = Samples.of(normal)
    assert MinMax().fit(samples, Grid(8))[0].item() == pytest.approx(normal.abs().max().item() / 127)
    reach = Percentile(0.9973).fit(samples, Grid(8))[0].item() * 127
    assert reach == pytest.approx(3.0, rel=0.01)
    low, high = Grid(8, "affine").span(*Percentile(0.9973).fit(samples, Grid(8, "affine")))
    assert (low.item(), high.item()) == (pytest.approx(-3, rel=0.02), pytest.approx(3, rel=0.02))


@pytest.mark.parametrize("name", ["cosine", "kl"])
def test_the_other_metrics_clip_less_than_nothing_and_more_than_all(normal, name):
    x = normal[:5000]
    step, _ = SearchSettings().named(name).fit(Samples.of(x), Grid(4))
    assert 0.2 * x.abs().max() < step.item() * 7 <= x.abs().max() * 1.0001


def test_large_tensors_are_thinned_out_evenly_and_the_same_way_each_time(normal):
    small = Samples.of(normal, capacity=10_000)
    assert small.values.shape == (1, 10_000)
    assert small.high == normal.max()
    assert torch.equal(small.values, Samples.of(normal, capacity=10_000).values)


def test_a_reservoir_is_bounded_fair_and_deterministic():
    def collect() -> Samples:
        reservoir = Reservoir(capacity=4096)
        for call in range(50):
            reservoir.add(torch.full((20, 1000 if call % 2 else 100), float(call)))
        return reservoir.samples()

    samples = collect()
    assert samples.values.shape == (1, 4096)
    assert (samples.low.item(), samples.high.item()) == (0.0, 49.0)
    large = (samples.values % 2 == 1).float().mean().item()
    assert large == pytest.approx(1000 / 1100, abs=0.03)
    assert samples.values.mean().item() == pytest.approx((25 * 1000 + 24 * 100) / 1100, rel=0.05)
    assert torch.equal(samples.values, collect().values)


def test_a_reservoir_drops_nothing_before_it_is_full_and_no_place_of_a_call_more_than_another():
    """Channels alternate in memory, so dropping every second value would lose one of them."""
    small, full = Reservoir(capacity=4096), Reservoir(capacity=4096)
    for call in range(4):
        small.add(torch.arange(1024.0) + 1024 * call)
    assert torch.equal(small.samples().values, torch.arange(4096.0)[None])
    for _ in range(64):
        full.add(torch.arange(1024.0) % 2)
    assert full.samples().values.mean().item() == pytest.approx(0.5, abs=0.04)
    assert torch.equal(full.samples().values, full.samples().values)


def test_a_reservoir_keeps_channels_apart():
    reservoir = Reservoir(axis=1, capacity=512)
    for _ in range(5):
        reservoir.add(torch.arange(4.0).view(1, 4, 1, 1).expand(2, 4, 30, 30))
    values = reservoir.samples().values
    assert values.shape == (4, 128)
    assert torch.equal(values, torch.arange(4.0)[:, None].expand(4, 128))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_calibration_data_with_nan_or_infinity_is_refused(bad):
    reservoir = Reservoir()
    reservoir.add(torch.tensor([1.0, bad]))
    with pytest.raises(ValueError, match="NaN or infinity"):
        reservoir.samples()


def test_a_quantiser_that_no_call_reached_is_an_error():
    with pytest.raises(ValueError, match="no calibration call"):
        Reservoir().samples()


def test_observers_leave_no_hook_and_ignore_what_checkpointing_repeats():
    quantizer, reservoir = Quantizer(Grid(4)), Reservoir()
    x = torch.randn(10, requires_grad=True)
    with observing({"q": quantizer}, {"q": reservoir}):
        checkpoint(lambda y: quantizer(y).sin(), x, use_reentrant=False).sum().backward()
    assert reservoir.samples().values.shape == (1, 10)
    assert not quantizer._forward_pre_hooks


def test_the_biased_error_adds_the_mean_error_of_each_channel_without_what_sampling_adds():
    """Channel 0 is off by 0.5 everywhere, channel 1 by +-0.5: only the first is biased."""
    x = torch.zeros(1, 4000)
    cells = torch.arange(4000)[None] % 2
    off = torch.where(cells == 0, 0.5, torch.where(torch.arange(4000)[None] % 4 == 1, 0.5, -0.5))
    plain = PowerError(2.0)(x, off, cells, None)
    assert float(plain) == pytest.approx(0.25)
    assert float(BiasedError(PowerError(2.0), 3.0)(x, off, cells, None)) == pytest.approx(0.25 + 3 * 0.125, rel=1e-3)
    few = torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
    many_cells = torch.arange(4000)[None] // 4
    excess = BiasedError(PowerError(2.0), 1.0)(x, few, many_cells, None) - PowerError(2.0)(x, few, many_cells, None)
    naive = few.view(1000, 4).mean(1).square().mean()
    assert float(excess) < 0.7 * float(naive), "four values of pure noise have no bias to speak of"


def test_a_weight_on_the_bias_moves_the_interval_of_a_skewed_channel():
    """All of one channel lies above what the best plain interval keeps: clipping it is a bias."""
    draws = torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    draws[:, 0] += 4
    reservoir = Reservoir(cells=True)
    reservoir.add(draws)
    samples = reservoir.samples()
    assert torch.equal(samples.cells.unique(), torch.arange(8))
    plain, biased = (SearchSettings(bias_weight=weight).named("mse").fit(samples, Grid(3)) for weight in (0.0, 20.0))
    assert float(biased[0]) > 1.02 * float(plain[0])


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("kind", ["symmetric", "affine", "shifted"])
def test_a_search_over_a_summary_finds_an_interval_as_good_as_over_all_values(normal, kind, bits):
    tails = torch.cat([normal[:50_000], normal[50_000:50_050] * 20])
    grid, samples = Grid(bits, kind), Samples.of(F.silu(tails) if kind == "shifted" else tails)
    search = SearchSettings(exponent=2.4).named("mse")
    summary = samples.summarised()
    assert summary.values.shape[1] < 2300
    assert float(summary.counts.sum()) == samples.values.shape[1]
    assert float((summary.values * summary.counts).sum()) == pytest.approx(float(samples.values.sum()), abs=0.1)
    whole = Shrink(Unweighted(2.4)).fit(samples, grid)
    found, best = (
        float(PowerError(2.4)(samples.values, fake_quantize(samples.values, *fit, grid), None, None))
        for fit in (search.fit(samples, grid), whole)
    )
    assert found <= 1.002 * best


class Unweighted(PowerError):
    weighted = False


def test_few_values_and_those_with_channels_are_not_summarised(normal):
    few = Samples.of(normal[:1000])
    assert few.summarised() is few
    told = Samples(normal[None, :9000], normal.min()[None], normal.max()[None], cells=torch.zeros(1, 9000).long())
    assert told.summarised() is told
