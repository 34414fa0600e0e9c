"""What calibration keeps of the values it saw, by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from parediff.models.diffusion.door import Call
from parediff.quantization.grid import Grid
from parediff.quantization.intervals import LearnedInterval
from parediff.quantization.placement import Slot
from parediff.quantization.reconstruction import Data, rows_of, stratified
from parediff.quantization.samples import Reservoir, Samples
from parediff.quantization.sources import Learned, PerStep
from parediff.quantization.time_context import TimeContext
from parediff.quantization.time_layers import CachedProjection


def test_an_offset_moves_values_and_every_range() -> None:
    moving = torch.tensor([[1.0], [3.0]])
    samples = Samples(torch.tensor([[1.0, 4.0]]), torch.tensor([1.0]), torch.tensor([4.0]), moving)
    moved = samples.minus(torch.tensor(0.5))
    assert (moved.values.tolist(), moved.low.tolist(), moved.high.tolist()) == ([[0.5, 3.5]], [0.5], [3.5])
    assert moved.moving is not None
    assert moved.moving.tolist() == [[0.5], [2.5]]


def test_what_does_not_fit_is_thinned_out_from_end_to_end() -> None:
    x = torch.arange(9.0)
    assert torch.equal(Samples.of(x, capacity=9).values, x[None])
    thin = Samples.of(x, capacity=3)
    assert (thin.values.tolist(), thin.low.tolist(), thin.high.tolist()) == ([[0, 4, 8]], [0], [8])


def test_the_moving_range_is_nine_tenths_old() -> None:
    reservoir = Reservoir()
    for high in (10.0, 20.0):
        reservoir.add(torch.tensor([-high, high]))
    found = reservoir.samples()
    assert (found.low.tolist(), found.high.tolist()) == ([-20], [20])
    assert found.moving is not None
    assert found.moving.flatten().tolist() == pytest.approx([-11, 11])


@pytest.mark.parametrize(("count", "held"), [(2, [1]), (3, [2]), (4, [3]), (9, [3, 7])])
def test_every_fourth_row_is_held_out_and_of_fewer_the_last(count: int, held: list[int]) -> None:
    data = Data((), {}, torch.zeros(count), torch.zeros(count), None)
    assert data.held.nonzero().flatten().tolist() == held
    with pytest.raises(ValueError, match="record more"):
        _ = Data((), {}, torch.zeros(1), torch.zeros(1), None).held


def test_drawn_rows_are_single_images_with_their_time_and_condition() -> None:
    def call(times: list[float], step: int) -> Any:
        images = torch.tensor(times).reshape(-1, 1, 1, 1)
        return Call(images, torch.tensor(times), {"class_labels": torch.tensor(times).long()}, step)

    drawn = stratified([call([9.0, 9.0, 9.0], 0), call([5.0, 5.0, 5.0], 1)], 4)
    assert drawn.t.tolist() == [5, 5, 9, 9]
    assert drawn.x.flatten().tolist() == [5, 5, 9, 9]
    assert drawn.cond["class_labels"].tolist() == [5, 5, 9, 9]


def test_some_rows_are_taken_of_what_has_one_for_each_sample_however_deep() -> None:
    value = {"a": {"b": torch.arange(8).reshape(4, 2)}, "c": torch.arange(3), "d": "kept", "e": torch.tensor(1.0)}
    taken = rows_of(value, slice(1, 3), 4)
    assert taken["a"]["b"].tolist() == [[2, 3], [4, 5]]
    assert taken["c"] is value["c"]
    assert (taken["d"], float(taken["e"])) == ("kept", 1.0)


def test_a_learned_interval_is_a_parameter_whose_gradient_is_scaled_where_it_is_trained() -> None:
    grid = Grid(4, "affine")
    for trained, levels in ((True, grid.high), (False, None)):
        source = LearnedInterval(trained=trained).source(Slot("conv", "input", grid), 0, None)
        assert isinstance(source, Learned)
        assert source.raw.requires_grad
        assert source.zero is not None
        assert (source.gradient_levels, source.batched) == (levels, True)
    whole = LearnedInterval(trained=True).source(Slot("conv", "input", Grid(32)), 0, None)
    assert isinstance(whole, Learned)
    assert whole.gradient_levels is None


def known_times(*times: float) -> TimeContext:
    context = TimeContext(10, 4, interpolate=False)
    context.remember(torch.tensor(times))
    return context


def test_a_table_is_ready_for_a_batch_at_one_time_and_looked_up_for_one_at_several() -> None:
    context, grid = known_times(10.0, 20.0), Grid(4, "symmetric")
    table = PerStep(context, None, zero_point=False)
    table.fill_entries(slice(0, 2), torch.tensor([0.5, 0.25]), None)
    for time, step in ((10.0, 0.5), (20.0, 0.25)):
        context.enter(torch.tensor([time, time]))
        fixed = table.fixed(grid)
        assert fixed is not None
        assert float(fixed[0]) == step
    context.enter(torch.tensor([10.0, 20.0]))
    assert table.fixed(grid) is None
    assert table(torch.zeros(2, 1))[0].flatten().tolist() == [0.5, 0.25]


def test_a_cached_projection_is_deployed_as_its_table() -> None:
    context = known_times(10.0, 20.0)
    cached = CachedProjection(context, torch.arange(8.0).reshape(2, 4))
    context.enter(torch.tensor([20.0]))
    assert cached(torch.zeros(3, 9)).tolist() == [[4, 5, 6, 7]] * 3
    table, bits = cached.deployed()["table"]
    assert table is cached.table
    assert bits == 32
