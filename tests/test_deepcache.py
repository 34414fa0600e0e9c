"""DeepCache: the published cost, and a partial step that is the full one where nothing changed."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

import reusing
import tiny
from parediff.cost import counting
from parediff.errors import RequestError
from parediff.models.diffusion.sampler import Sampler
from parediff.reuse.engine import FULL, Step, installed
from reusing import by_hand, deepcache, with_method

DDIM = Sampler(name="ddim", scheduler="DDIMScheduler", steps=6)


def average(denoiser: Any, method: Any, steps: int, inputs: Any, cond: Any) -> float:
    """MACs of a step in units of 1e9, attention products left out as the authors do."""
    counters = reusing.macs_per_call(denoiser, method, steps, inputs, cond)
    return sum(c.macs - tiny.macs_of(c, "matmul") for c in counters) / steps / 1e9


@cache
def ldm4() -> list[float]:
    """The cost of a keyframe, and the average of a keyframe and a partial step."""
    arguments = reusing.meta_inputs(3, 64), reusing.meta_context(1, 512)
    return [average(reusing.ldm4_unet(), deepcache(branch=0, interval=2), n, *arguments) for n in (1, 2)]


@cache
def cifar() -> list[float]:
    """The same."""
    arguments = reusing.meta_inputs(3, 32), {}
    return [average(reusing.cifar_unet(), deepcache(branch=2, interval=2), n, *arguments) for n in (1, 2)]


def average_over(steps: int, interval: int, full: float, both: float) -> float:
    """Of a run, from the cost of a keyframe and the average of a keyframe and a partial step."""
    keyframes = sum(step.full for step in deepcache(interval=interval)._plan(nn.Identity(), steps, 1))
    return (keyframes * full + (steps - keyframes) * (2 * both - full)) / steps


@pytest.mark.parametrize(
    ("interval", "macs"),
    [
        (3, 36.48),
        *(pytest.param(*row, marks=pytest.mark.slow) for row in [(2, 52.12), (5, 23.50), (10, 13.97), (20, 9.39)]),
    ],
)
def test_ldm4_costs_what_is_published(interval: int, macs: float) -> None:
    assert average_over(250, interval, *ldm4()) == pytest.approx(macs, rel=2e-3)


@pytest.mark.parametrize(("interval", "macs"), [(2, 4.15), (3, 3.54), (5, 3.01), (10, 2.63)])
def test_the_cifar_unet_costs_what_is_published(interval: int, macs: float) -> None:
    full, both = cifar()
    assert 2 * both - full == pytest.approx(2.24, rel=1e-2)
    assert average_over(100, interval, full, both) == pytest.approx(macs, rel=1e-2)


@pytest.mark.parametrize("branch", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", ["unet", "text"])
def test_a_partial_step_at_the_same_input_is_the_full_one(branch: int, kind: str) -> None:
    model = tiny.unconditional_model() if kind == "unet" else tiny.text_model()
    x, t = torch.randn(2, *model.sample_shape), torch.tensor([5, 5])
    cond = {} if kind == "unet" else {"encoder_hidden_states": torch.randn(2, 3, 12)}
    reuser, run = by_hand(model, [FULL, Step(frozenset()), Step(frozenset())], deepcache(branch=branch)._cuts)
    full = reuser(model.predict, x, t, cond)
    run.advance()
    with counting(model.denoiser) as counter:
        partial = reuser(model.predict, x, t, cond)
    run.advance()
    assert torch.equal(full, model.predict(x, t, cond))
    assert torch.allclose(partial, full, atol=1e-6)
    assert not torch.equal(reuser(model.predict, x + 1, t, cond), full)
    with counting(model.denoiser) as plain:
        model.predict(x, t, cond)
    assert 0 < counter.macs < plain.macs


@pytest.mark.parametrize("branch", [0, 1, 2, 3])
def test_a_controlnet_stays_alive_on_the_outer_ring(branch: int) -> None:
    """Its residuals reach the live skips; inside the cut they are as old as the feature."""
    model = tiny.text_model()
    x, t, prompt = torch.randn(2, 4, 8, 8), torch.tensor([5, 5]), torch.randn(2, 3, 12)
    shapes = [(2, 8, 8, 8), (2, 8, 8, 8), (2, 8, 4, 4), (2, 16, 4, 4)]

    def control(scale: float) -> dict[str, Any]:
        residuals = tuple(scale * torch.ones(shape) for shape in shapes)
        middle = scale * torch.ones(2, 16, 4, 4)
        return {
            "encoder_hidden_states": prompt,
            "down_block_additional_residuals": residuals,
            "mid_block_additional_residual": middle,
        }

    reuser, run = by_hand(model, [FULL, Step(frozenset()), Step(frozenset())], deepcache(branch=branch)._cuts)
    full = reuser(model.predict, x, t, control(0.1))
    run.advance()
    assert torch.allclose(reuser(model.predict, x, t, control(0.1)), full, atol=1e-6)
    run.advance()
    assert not torch.allclose(reuser(model.predict, x, t, control(0.5)), full, atol=1e-3)
    assert reuser.tally.reuse == 2


def test_a_deeper_branch_costs_more() -> None:
    model = tiny.unconditional_model()
    costs = []
    for branch in range(4):
        student = with_method(model, deepcache(branch=branch))
        with counting(student.denoiser) as counter:
            student.generate([1], None, DDIM)
        costs.append(counter.macs)
    assert costs == sorted(costs)
    assert len(set(costs)) == 4


def test_only_one_feature_is_kept() -> None:
    reuser, run = by_hand(tiny.unconditional_model(), [FULL, Step(frozenset())], deepcache(branch=0)._cuts)
    reuser(run.model.predict, torch.randn(2, 1, 8, 8), torch.tensor([5, 5]), {})
    assert [tuple(f.shape) for f in reuser._contexts[0].features] == [(2, 8, 8, 8)]


def test_every_step_a_keyframe_changes_nothing() -> None:
    model = tiny.text_model(2.0)
    student = with_method(model, deepcache(interval=1))
    assert torch.equal(student.generate([1], ["a"], DDIM), model.generate([1], ["a"], DDIM))
    sparse = with_method(model, deepcache(interval=3))
    assert not torch.equal(sparse.generate([1], ["a"], DDIM), model.generate([1], ["a"], DDIM))
    tally = installed(sparse, "deepcache").tally
    assert (tally.full, tally.reuse) == (2, 4)


def test_what_cannot_be_cut_is_refused_by_name() -> None:
    with pytest.raises(RequestError, match=r"model=DiTTransformer2DModel.*ResnetBlock2D"):
        deepcache().prepare(tiny.dit_model())
    with pytest.raises(RequestError, match=r"branch=9.*0 to 3"):
        deepcache(branch=9).prepare(tiny.unconditional_model())
    with pytest.raises(RequestError, match="interval"):
        deepcache(interval=0)
