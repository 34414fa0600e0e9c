"""Features whose last change goes on between keyframes: closed forms, what is kept for it; 0 is the paper's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import tiny
from parediff.errors import RequestError
from parediff.models.diffusion.sampler import Sampler
from parediff.reuse.context import Context, blank
from parediff.reuse.engine import FULL, Step
from parediff.reuse.replacements import Cell, Cut, Keep, Put, Recall
from reusing import by_hand, deepcache, frdiff, with_method

REUSE = Step(frozenset())
JUMP = Step(frozenset(), 0.0)


class Clock(nn.Module):
    """Gives what it is told, whatever it gets."""

    value = 0.0

    def forward(self, x: Tensor) -> Tensor:
        return torch.full_like(x, self.value)


def outputs(plan: list[Step], features: list[float], extrapolation: float) -> list[float]:
    """What a network of one reused module gives at every step, its features in full being these."""
    network, cell = nn.Sequential(Clock()), Cell()
    layer = network[0]
    cut = Cut("0", "part", cell, [Put(network, "0", Keep(cell, layer))], [Put(network, "0", Recall(cell))])
    reuser, run = by_hand(tiny.unconditional_model(), plan, lambda _: [cut], extrapolation)
    found = []
    for value in features:
        Clock.value = value
        found.append(
            float(reuser(lambda x, _, __: network(x), torch.zeros(1, 1, 2, 2), torch.tensor([5]), {})[0, 0, 0, 0])
        )
        run.advance()
    return found


LINE = [3.0 - 0.25 * step for step in range(8)]


def test_what_changes_evenly_is_met_exactly() -> None:
    plan = [FULL, FULL, REUSE, REUSE, FULL, REUSE, REUSE, REUSE]
    assert outputs(plan, LINE, 1.0) == pytest.approx(LINE)


def test_a_share_of_the_change_goes_on() -> None:
    plan = [FULL, REUSE, FULL, REUSE, REUSE]
    assert outputs(plan, [1.0, 9.0, 2.0, 9.0, 9.0], 0.5) == pytest.approx([1.0, 1.0, 2.0, 2.25, 2.5])
    assert outputs(plan, [1.0, 9.0, 2.0, 9.0, 9.0], 0.0) == pytest.approx([1.0, 1.0, 2.0, 2.0, 2.0])


def test_a_keyframe_is_kept_for_the_next_one_also_where_nothing_reads_it_in_between() -> None:
    assert outputs([FULL, FULL, REUSE], LINE[:3], 1.0) == pytest.approx(LINE[:3])
    assert outputs([FULL, JUMP, FULL, REUSE], LINE[:4], 1.0)[3] == pytest.approx(LINE[3])


def test_two_halves_of_a_guidance_carry_on_what_each_had() -> None:
    former, later = ([Context(blank(torch.zeros(size, 1)), {}, step=2 * turn) for size in (1, 2)] for turn in (0, 1))
    for size, (before, after) in enumerate(zip(former, later, strict=True), start=1):
        before.features, kept = [torch.zeros(size)], [torch.full((size,), float(size)), None]
        before.features.append(None)
        after.follow(before, carries=True)
        after.features = kept
        carried = after.at(3, 1.0)
        assert carried[0].tolist() == [1.5 * size] * size
        assert carried[1] is None


def test_what_a_keyframe_gave_several_of_is_carried_on_one_by_one() -> None:
    context = Context(torch.zeros(()), {}, step=1, earlier=[(torch.zeros(1), None)], gap=1)
    context.features = [(torch.ones(1), None)]
    first, second = context.at(2, 1.0)[0]
    assert (float(first), second) == (2.0, None)


@pytest.mark.parametrize("method", [frdiff, deepcache])
def test_nothing_carried_on_is_the_papers_method_bit_by_bit_and_something_is_not(method: type) -> None:
    sampler = Sampler("ddim", "DDIMScheduler", 6)
    plain, none, some = (
        with_method(tiny.unconditional_model(), method(**options)).generate((1, 2), None, sampler)
        for options in ({}, {"extrapolation": 0.0}, {"extrapolation": 1.0})
    )
    assert torch.equal(plain, none)
    assert not torch.equal(plain, some)


@pytest.mark.parametrize("method", [frdiff, deepcache])
def test_a_share_below_nothing_is_refused(method: type) -> None:
    with pytest.raises(RequestError, match="extrapolation"):
        method(extrapolation=-0.5)


@pytest.mark.parametrize("method", [frdiff, deepcache])
def test_an_image_stays_its_own_whatever_it_is_drawn_with(method: type) -> None:
    sampler = Sampler("ddim", "DDIMScheduler", 6)
    model = with_method(tiny.unconditional_model(), method(extrapolation=1.0))
    together, alone = model.generate((1, 2), None, sampler), model.generate((2,), None, sampler)
    assert torch.allclose(together[1:], alone, atol=1e-5)
