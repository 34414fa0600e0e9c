"""Parts of feature reuse on their own: what is left out of a projection, how keyframes keep a budget, who may reuse."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from diffusers.models.normalization import AdaLayerNorm, AdaLayerNormZero, AdaLayerNormZeroSingle
from torch import nn

import tiny
from parediff.errors import RequestError
from parediff.reuse.change import within_budget
from parediff.reuse.engine import Reuse, Step, install
from parediff.reuse.learned import Gates
from parediff.reuse.mixing import Mixing
from parediff.reuse.outer_ring import outer_ring
from parediff.reuse.replacements import Cell, Put
from parediff.reuse.unread import GateRows, NoTokens, Unread, _rows


@pytest.mark.parametrize(("attention", "mlp"), itertools.product((False, True), repeat=2))
def test_a_projection_without_unread_rows_is_the_projection_elsewhere(attention: bool, mlp: bool) -> None:
    linear, x = nn.Linear(4, 12), torch.randn(2, 3, 4)
    rows = GateRows(Cell(), linear, 6)
    rows.without_attention, rows.without_mlp = attention, mlp
    expected = linear(x).detach()
    for chunk in (0, 1) * attention + (3, 4) * mlp:
        expected[..., 2 * chunk : 2 * chunk + 2] = 0
    torch.testing.assert_close(rows(x), expected)


def test_only_plain_projections_of_known_norms_are_shortened() -> None:
    block: Any = nn.Module()
    block.norm1, block.norm, block.norm3 = AdaLayerNormZero(8, None), AdaLayerNormZeroSingle(8), AdaLayerNorm(8)
    first, single = _rows(block, "norm1"), _rows(block, "norm")
    assert first is not None
    assert single is not None
    assert (first.chunks, single.chunks) == (6, 3)
    assert _rows(block, "norm3") is None
    assert _rows(block, "absent") is None
    block.norm1.linear = nn.Linear(8, 48, bias=False)
    assert _rows(block, "norm1") is None
    block.norm.linear = nn.Sequential(block.norm.linear)
    assert _rows(block, "norm") is None


def test_nothing_of_an_image_is_no_token() -> None:
    assert NoTokens(Cell())(torch.zeros(2, 5, 4)).shape == (2, 0, 4)


@pytest.mark.parametrize("keyframes", [1, 2, 3, 4, 5])
def test_a_budget_of_keyframes_is_kept_exactly_where_changes_are_alike(keyframes: int) -> None:
    changes = torch.tensor([[0.0, 1, 1, 1, 1], [0.0, 0.25, 0.25, 0.25, 0.25]])
    fresh = within_budget(changes, keyframes)
    assert fresh.sum(dim=1).tolist() == [keyframes] * 2
    assert fresh[:, 0].all()


def test_gates_know_their_groups_and_steps() -> None:
    gates = Gates(3, 6, None)
    assert (gates.groups, gates.steps) == (3, 6)
    torch.testing.assert_close(gates.straight_through(), gates.hard())


@pytest.mark.parametrize(
    ("shape", "expected"), [("hard", 0.6), ("sigmoid", 0.5986877), ("linear", 0.6), ("const", 0.3), ("off", 1.0)]
)
def test_weights_follow_their_formulas(shape: Any, expected: float) -> None:
    # slope = 4 (0.4 - 0.3) = 0.4
    assert Mixing(shape=shape, temperature=4.0, bias=0.3)(0.4) == pytest.approx(expected)


def test_two_methods_do_not_reuse_the_same_features() -> None:
    model = tiny.unconditional_model()
    reuse = Reuse("first", lambda network: [], lambda network, steps, cuts: [Step()] * steps)
    install(model, reuse)
    with pytest.raises(RequestError, match=r"\[first,second\]"):
        install(model, Reuse("second", reuse.find, reuse.plan))
    assert model.wrapper_factories == [reuse]


@pytest.mark.parametrize(
    ("part", "left"), [("attn", {"norm1", "norm1_context"}), ("ff", {"norm2"}), ("ff_context", {"norm2_context"})]
)
def test_each_part_of_a_joint_block_leaves_out_the_norms_that_it_alone_reads(part: str, left: set[str]) -> None:
    from diffusers.models.attention import JointTransformerBlock

    block = JointTransformerBlock(dim=8, num_attention_heads=2, attention_head_dim=4)
    names = {id(module): name for name, module in block.named_modules()}
    puts = [change for change in Unread.of(block).by(part) if isinstance(change, Put)]
    empty = {f"{names[id(put.owner)]}.{put.name}".strip(".") for put in puts if isinstance(put.module, NoTokens)}
    assert {place.removesuffix(".norm") for place in empty} == left


def test_a_gate_whose_logit_is_zero_is_closed() -> None:
    gates = Gates(1, 4, None)
    gates.logits.data.copy_(torch.tensor([[-1e-6, 0.0, 1e-6]]))
    assert gates.hard().tolist() == [[0, 0, 1]]


def test_a_block_without_residual_layers_has_no_outer_ring() -> None:
    denoiser: Any = tiny.unet()
    denoiser.down_blocks[0].resnets = nn.ModuleList()
    with pytest.raises(RequestError, match="blocks of ResnetBlock2D alone"):
        outer_ring(denoiser, 0)
