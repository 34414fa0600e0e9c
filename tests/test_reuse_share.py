"""What reuse can save in seconds: which modules stand still, what their time is, and what ratio that makes."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from parediff.reuse.cuts import cuts_of
from parediff.reuse.engine import Tally
from parediff.reuse.outer_ring import outer_ring
from parediff.reuse.share import left_out, time_ratio, timing
from reusing import dit_xl, sd_unet


def names(network: nn.Module, parts: dict[nn.Module, float]) -> dict[str, float]:
    return {name: parts[module] for name, module in network.named_modules() if module in parts}


def test_of_a_dit_block_attention_feed_forward_their_norms_and_four_of_six_rows_of_adaln_stand_still() -> None:
    network = dit_xl()
    found = names(network, left_out(cuts_of(network, resnets=True, attentions=True, mlps=True)))
    block = {name.split(".", 2)[2]: share for name, share in found.items() if name.startswith("transformer_blocks.3.")}
    assert block == {"attn1": 1.0, "ff": 1.0, "norm1.norm": 1.0, "norm3": 1.0, "norm1.linear": pytest.approx(4 / 6)}
    assert len(found) == 28 * 5


def test_of_a_unet_under_deepcache_the_ring_is_alive_and_the_middle_stands_still() -> None:
    network = sd_unet()
    found = names(network, left_out([outer_ring(network, 1)]))
    assert "mid_block" in found
    assert "up_blocks.0" in found
    assert "up_blocks.3.resnets.0" in found
    assert not {"conv_in", "conv_out", "down_blocks.0.resnets.0", "up_blocks.3.resnets.1"} & set(found)
    assert not any(name.startswith("mid_block.") for name in found), "what is inside is counted with it"


class Ticking(nn.Module):
    """Takes as many seconds of a clock as it is told."""

    def __init__(self, clock: list[float], seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def forward(self, x: Tensor) -> Tensor:
        self.clock[0] += self.seconds
        return x


def test_the_share_of_a_call_is_the_time_of_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    network = nn.Sequential(*(Ticking(clock, seconds) for seconds in (1.0, 3.0, 4.0)))
    with timing(network, {network[1]: 1.0, network[2]: 0.25}) as shares:
        for _ in range(3):
            network(torch.zeros(1))
    assert shares.calls == [8.0] * 3
    assert shares.of_a_call == (3 + 1) / 8
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_the_ratio_is_of_calls_that_cost_nothing_in_what_they_leave_out() -> None:
    assert time_ratio(Tally(full=5, reuse=5), 1.0, 1.0) == 2.0
    assert time_ratio(Tally(full=5, jump=5), 0.3, 1.0) == 2.0
    assert time_ratio(Tally(full=3, forced=1, reuse=6), 0.5, 1.0) == pytest.approx(10 / 7)
    assert time_ratio(Tally(full=5, reuse=5), 1.0, 0.8) == pytest.approx(1 / 0.6), "what is no call is not saved"
