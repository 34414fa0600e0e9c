"""What a keyframe does with the features of the one before: their memory passes on, their values never do."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import tiny
from parediff.reuse.engine import FULL, Reuser, Step
from parediff.reuse.replacements import Cell, Cut, Keep, KeepTurns, Put, Recall, RecallTurns
from reusing import by_hand

REUSE = Step(frozenset())


def chain_and_cuts(length: int) -> tuple[nn.Sequential, list[Cut]]:
    chain = nn.Sequential(*(nn.Linear(4, 4) for _ in range(length))).requires_grad_(False)
    cells = [Cell() for _ in chain]
    return chain, [
        Cut(str(i), "part", cell, [Put(chain, str(i), Keep(cell, chain[i]))], [Put(chain, str(i), Recall(cell))])
        for i, cell in enumerate(cells)
    ]


def step(reuser: Reuser, chain: nn.Sequential, x: Tensor, layers: Sequence[int]) -> Tensor:
    """One call of the first `layers` of the chain, added up so that every layer's output is its own."""
    output = reuser(lambda x, _, __: sum((chain[i](x) for i in layers), torch.zeros(())), x, torch.zeros(1), {})
    reuser.run.advance()
    return output


def test_features_are_let_go_one_by_one_as_their_successors_come() -> None:
    chain, cuts = chain_and_cuts(3)
    reuser, _ = by_hand(tiny.unconditional_model(), [FULL, REUSE, FULL, REUSE], lambda _: cuts)
    x = torch.ones(1, 4)
    step(reuser, chain, x, range(3))
    step(reuser, chain, x, range(3))
    former = [weakref.ref(feature) for feature in reuser._contexts[0].features]
    alive: list[int] = []
    for layer in chain:
        layer.register_forward_hook(lambda *_: alive.append(sum(ref() is not None for ref in former)))
    step(reuser, chain, x, range(3))
    assert alive == [3, 2, 1]
    assert not any(ref() for ref in former)


def test_a_call_in_full_is_the_same_whatever_was_kept_before() -> None:
    chain, cuts = chain_and_cuts(3)
    reuser, _ = by_hand(tiny.unconditional_model(), [FULL, REUSE, FULL, REUSE], lambda _: cuts)
    x, later = torch.ones(1, 4), torch.full((1, 4), 2.0)
    first = step(reuser, chain, x, range(3))
    assert torch.equal(step(reuser, chain, later, range(3)), first)
    second = step(reuser, chain, later, range(3))
    assert torch.equal(second, sum((layer(later) for layer in chain), torch.zeros(())))
    assert torch.equal(step(reuser, chain, x, range(3)), second)


def test_what_a_keyframe_did_not_compute_is_not_recalled_from_an_earlier_one() -> None:
    chain, cuts = chain_and_cuts(2)
    reuser, _ = by_hand(tiny.unconditional_model(), [FULL, REUSE, FULL, REUSE], lambda _: cuts)
    x = torch.ones(1, 4)
    for layers in (range(2), range(2), range(1)):
        step(reuser, chain, x, layers)
    with pytest.raises(AssertionError):
        step(reuser, chain, x, range(2))


def test_two_halves_of_a_guidance_hand_on_what_each_had_and_one_that_is_gone_keeps_nothing() -> None:
    chain, cuts = chain_and_cuts(2)
    reuser, run = by_hand(tiny.unconditional_model(), [FULL, REUSE, FULL, REUSE], lambda _: cuts)
    x, other = torch.ones(1, 4), torch.ones(2, 4)

    def both(first: Tensor, *more: Tensor) -> None:
        for half in (first, *more):
            reuser(lambda x, _, __: chain[0](x) + chain[1](x), half, torch.zeros(1), {})
        run.advance()

    both(x, other)
    both(x, other)
    former = [weakref.ref(feature) for context in reuser._contexts for feature in context.features]
    both(x)
    both(x)
    assert not any(ref() for ref in former)


def test_a_module_called_twice_gives_back_each_calls_own_outputs_in_their_order() -> None:
    cell, keep = Cell(), nn.Identity()
    first, second = torch.ones(2), (torch.zeros(3), None)
    kept = [KeepTurns(cell, keep)(given) for given in (first, second)]
    cell.turn = 0
    recalled = [RecallTurns(cell)() for _ in kept]
    assert recalled[0] is first
    assert recalled[1] is second


def test_a_gate_mixes_what_is_computed_with_what_was_kept_of_the_same_kind() -> None:
    cell = Cell()
    cell.put((torch.ones(2), None))
    cell.gate = torch.tensor(0.25)
    cell.put((torch.full((2,), 5.0), None))
    assert torch.equal(cell.tensor[0], torch.full((2,), 2.0))
    assert cell.tensor[1] is None
    cell.tensor = torch.ones(2)  # one tensor before, a tuple now: nothing to mix with
    cell.put((torch.full((2,), 5.0),))
    assert torch.equal(cell.tensor[0], torch.full((2,), 5.0))


def test_what_a_keyframe_left_is_let_go_as_soon_as_its_successor_is_there() -> None:
    cell = Cell()
    cell.spent = torch.ones(2)
    former = weakref.ref(cell.spent)
    cell.put(torch.zeros(2))
    assert former() is None
