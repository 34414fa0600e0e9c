"""Grids: bounds by hand, and what a range becomes on them."""

import dataclasses

import pytest
import torch

from parediff.errors import RequestError
from parediff.quantization.grid import SILU_MINIMUM, SMALLEST_STEP, Grid

BY_HAND = {
    ("symmetric", 8): (-127, 127),
    ("symmetric", 2): (-1, 1),
    ("symmetric_negative", 4): (-8, 7),
    ("narrow", 8): (-126, 126),
    ("narrow", 6): (-30, 30),
    ("narrow", 5): (-14, 14),
    ("narrow", 4): (-6, 6),
    ("narrow", 3): (-2, 2),
    ("unsigned", 4): (0, 15),
    ("shifted", 4): (0, 15),
    ("shifted_narrow", 4): (0, 14),
    ("affine", 8): (0, 255),
}


@pytest.mark.parametrize(("kind", "bits"), BY_HAND)
def test_bounds_are_those_of_the_papers(kind, bits):
    grid = Grid(bits, kind)
    assert (grid.low, grid.high) == BY_HAND[kind, bits]
    assert grid.levels == grid.high - grid.low + 1 <= 2**bits


@pytest.mark.parametrize("bits", [1, 0, -4, 33, 4.0, True])
def test_bits_outside_2_to_32_are_refused_by_name(bits):
    with pytest.raises(RequestError) as refused:
        Grid(bits)
    assert refused.value.key == "bits"
    assert refused.value.value == bits


def test_a_narrow_grid_of_two_bits_would_be_empty_and_is_refused():
    with pytest.raises(RequestError, match="from 3 to 32"):
        Grid(2, "narrow")


def test_an_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(RequestError, match="symmetric_negative"):
        Grid(4, "asymmetric")


def test_a_grid_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Grid(4).bits = 8


def test_a_symmetric_range_is_carried_by_its_larger_end():
    step, zero = Grid(4).fit(torch.tensor(-14.0), torch.tensor(3.0))
    assert step.item() == 2.0
    assert zero is None


def test_an_affine_range_has_an_integer_zero_point_and_contains_zero():
    step, zero = Grid(4, "affine").fit(torch.tensor([-1.0, 2.0]), torch.tensor([2.0, 3.0]))
    assert step.tolist() == pytest.approx([3 / 15, 3 / 15])
    assert zero.tolist() == [5.0, 0.0]


def test_a_shifted_range_starts_at_the_minimum_of_silu():
    x = torch.linspace(-2, -1, 100_001, dtype=torch.float64)
    assert torch.nn.functional.silu(x).min().item() == pytest.approx(SILU_MINIMUM, abs=1e-9)
    low, high = Grid(4, "shifted").span(*Grid(4, "shifted").fit(torch.tensor(-0.2), torch.tensor(3.0)))
    assert low.item() == pytest.approx(SILU_MINIMUM)
    assert high.item() == pytest.approx(3.0)


@pytest.mark.parametrize("kind", ["symmetric", "unsigned", "affine"])
def test_a_constant_zero_range_gets_the_smallest_step(kind):
    step, _ = Grid(8, kind).fit(torch.tensor(0.0), torch.tensor(0.0))
    assert step.item() == pytest.approx(SMALLEST_STEP)
