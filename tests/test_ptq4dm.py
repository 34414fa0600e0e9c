"""PTQ4DM's searches and metrics as options of `ptq` (arXiv 2211.15736); its time steps: test_calibration."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from parediff.quantization.grid import Grid
from parediff.quantization.quantizer import Quantizer
from parediff.quantization.samples import Reservoir, Samples
from parediff.quantization.search import MinMax, SearchSettings


def step_of(x: Tensor, name: str, kind: Any = "symmetric", *, bits: int = 8, exponent: float = 2.0) -> float:
    search = SearchSettings(exponent=exponent, candidates=100, lowest=0.01).named(name)
    return float(search.fit(Samples.of(x), Grid(bits, kind))[0])


def draws(count: int = 10**6) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(0))


def heavy_tailed() -> Tensor:
    """Student's t with 4 degrees of freedom: a normal over the root of a chi-squared / 4."""
    normals = torch.randn(5, 10**6, generator=torch.Generator().manual_seed(1))
    return normals[0] / normals[1:].square().mean(0).sqrt()


def test_p4_the_search_on_a_normal_and_its_order_in_the_exponent() -> None:
    x = draws()
    found = {exponent: step_of(x, "mse", exponent=exponent) for exponent in (1.0, 2.0, 2.4)}
    assert found[2.0] == pytest.approx(0.03087, rel=0.01)
    assert found[1.0] < found[2.0] < found[2.4]


@pytest.mark.parametrize("name", ["minmax", "percentile", "mse", "cosine", "kl"])
@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_p5_data_without_negative_values_never_gets_a_negative_end(name: str, shift: float) -> None:
    x = draws(20_000).abs() + shift
    grid = Grid(4, "affine")
    low, high = grid.span(*SearchSettings().named(name).fit(Samples.of(x), grid))
    assert float(low) == 0.0
    assert float(high) > shift


def test_p6_on_a_heavy_tail_the_clip_grows_with_the_exponent_up_to_the_whole_range() -> None:
    x = heavy_tailed()
    clips = [step_of(x, "mse", exponent=exponent) for exponent in (1.0, 2.0, 2.4)] + [step_of(x, "minmax")]
    assert clips == sorted(set(clips))


def test_p8_eight_bits_over_eight_sigma_change_an_output_by_under_one_percent() -> None:
    """D / sqrt(12) with D = 8 sigma / 255: 0.906 %."""
    x = draws().clamp(-4, 4)
    quantizer = Quantizer(Grid(8, "affine"))
    quantizer.fill(*(one[0] if one is not None else None for one in MinMax().fit(Samples.of(x), quantizer.grid)))
    change = (quantizer(x) - x).square().mean().sqrt() / x.square().mean().sqrt()
    assert float(change) == pytest.approx(8 / 255 / 12**0.5, rel=0.02)


def test_p9_a_range_does_not_depend_on_the_order_of_batches() -> None:
    batches = [scale * draws(512) for scale in (0.5, 4.0, 1.0, 2.0)]

    def seen(order: list[int]) -> Samples:
        reservoir = Reservoir()
        for index in order:
            reservoir.add(batches[index])
        return reservoir.samples()

    one, other = seen([0, 1, 2, 3]), seen([2, 3, 1, 0])
    assert torch.equal(one.low, other.low)
    assert torch.equal(one.high, other.high)
    assert torch.equal(one.values.sort().values, other.values.sort().values)  # none was dropped either


def test_p9_the_moving_range_follows_the_calls_and_so_depends_on_their_order() -> None:
    """0.9 old + 0.1 new of the range of each call; of a weight, which comes once, it is the whole range."""
    reservoir = Reservoir()
    for high in (1.0, 2.0, 4.0):
        reservoir.add(torch.tensor([-1.0, high]))
    step, _ = SearchSettings().named("moving").fit(reservoir.samples(), Grid(8, "unsigned"))
    assert float(step) == pytest.approx((0.9 * (0.9 * 1 + 0.1 * 2) + 0.1 * 4) / 255)
    weight = torch.tensor([-3.0, 1.0])
    assert float(SearchSettings().named("moving").fit(Samples.of(weight), Grid(8))[0]) == pytest.approx(3 / 127)
