"""Schedules, score mixing, held noise and the bookkeeping of reuse, against published vectors and hand arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import tiny
from parediff.errors import RequestError
from parediff.reuse.context import Context, blank
from parediff.reuse.cuts import cuts_of
from parediff.reuse.engine import FULL, Step
from parediff.reuse.mixing import Mixing
from parediff.reuse.prediction import alpha_sigma, from_noise, to_noise
from parediff.reuse.replacements import standing_in
from parediff.reuse.schedules import Schedule, clustered, uniform
from reusing import by_hand, frdiff

HARD = Mixing("hard", 30, 0.5)


def schedule(**options: object) -> Schedule:
    defaults = {"keyframes": "uniform", "interval": 2, "center": 15, "power": 1.4, "first_full": 1, "last_full": 0}
    return Schedule(**(defaults | options))  # type: ignore[arg-type]


def test_hard_mixing_follows_the_released_rule() -> None:
    weights = [HARD(i / 50) for i in range(21, 30)]
    assert weights == pytest.approx([0, 0.05, 0.20, 0.35, 0.50, 0.65, 0.80, 0.95, 1])
    assert HARD(21 / 50) == 0
    assert HARD(29 / 50) == 1


@pytest.mark.parametrize(
    ("steps", "interval", "census"),
    [
        (20, 2, (10, 4, 2, 4)),
        (20, 3, (7, 6, 2, 5)),
        (30, 2, (15, 7, 2, 6)),
        (40, 2, (20, 9, 2, 9)),
        (50, 2, (25, 11, 3, 11)),
        (50, 3, (17, 14, 5, 14)),
        (50, 5, (10, 17, 6, 17)),
        (100, 3, (34, 29, 9, 28)),
        (250, 3, (84, 72, 22, 72)),
        (250, 20, (13, 103, 31, 103)),
    ],
)
def test_the_census_of_steps_is_the_published_one(steps: int, interval: int, census: tuple[int, ...]) -> None:
    plan = frdiff(interval=interval)._plan(nn.Identity(), steps, 1)
    full, jump = sum(step.full for step in plan), sum(step.jump for step in plan)
    mixed = sum(not step.full and 0 < step.weight < 1 for step in plan)
    assert (full, jump, mixed, steps - full - jump - mixed) == census


def test_every_shape_of_mixing_stays_between_jump_and_reuse() -> None:
    assert Mixing("sigmoid", 30, 0.5)(0.5) == pytest.approx(0.5)
    assert Mixing("sigmoid", 30, 0.5)(0.6) == pytest.approx(1 / (1 + math.exp(-3)))
    assert Mixing("sigmoid", 1000, 0.9)(0) == 0
    assert [Mixing("linear", 30, 0.5)(r) for r in (0, 0.25, 1)] == [0, 0.25, 1]
    assert {Mixing("const", 30, 0)(r) for r in (0, 0.5, 0.99)} == {0}
    assert {Mixing("off", 30, 0.5)(r) for r in (0, 0.5, 0.99)} == {1}


def test_the_clustered_schedule_is_deepcaches_complex_power() -> None:
    assert clustered(50, 5, 15, 1.4) == [0, 5, 9, 13, 17, 21, 26, 31, 37, 43]
    assert clustered(10, 5, 0, 1.4)[0] == 0
    for outside in (-1, 10):
        with pytest.raises(RequestError, match=f"center={outside}: a step of the run, 0 to 9"):
            clustered(10, 5, outside, 1.4)
    assert clustered(250, 20, 120, 1.4) == [0, 22, 42, 61, 80, 98, 115, 131, 149, 168, 187, 207, 228]


@pytest.mark.parametrize("interval", [2, 3, 4, 5, 6, 7, 8])
def test_a_schedule_has_as_many_keyframes_as_the_interval_says(interval: int) -> None:
    for keyframes in ("uniform", "clustered"):
        chosen = schedule(keyframes=keyframes, interval=interval).over(50)
        assert len(chosen) == math.ceil(50 / interval)
        assert min(chosen) == 0


def test_the_ends_can_be_kept_full() -> None:
    chosen = schedule(interval=5, first_full=2, last_full=3).over(10)
    assert chosen == {0, 1, 5, 7, 8, 9}
    assert uniform(7, 3) == [0, 3, 6]


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"interval": 0}, "interval"),
        ({"keyframes": (1, 2)}, "keyframes"),
        ({"keyframes": (0, -1)}, "keyframes"),
        ({"power": 0.0}, "power"),
        ({"last_full": -1}, "last_full"),
    ],
)
def test_a_wrong_schedule_is_named(options: dict, key: str) -> None:
    with pytest.raises(RequestError) as error:
        schedule(**options)
    assert error.value.key == key


def test_keyframes_beyond_the_run_are_named() -> None:
    with pytest.raises(RequestError, match=r"keyframes=.*below the 5 steps"):
        schedule(keyframes=(0, 7)).over(5)
    with pytest.raises(RequestError, match="center"):
        schedule(keyframes="clustered", center=60).over(50)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("t", [3.0, 500.0, 499.5])
def test_noise_and_prediction_convert_into_each_other(kind: str, t: float) -> None:
    scheduler = tiny.scheduler(prediction_type=kind)
    x, output = torch.randn(2, 1, 4, 4, dtype=torch.float64), torch.randn(2, 2, 4, 4, dtype=torch.float64)
    steps = torch.tensor([t, t])
    noise = to_noise(output, x, steps, scheduler)
    assert torch.allclose(from_noise(noise, x, steps, scheduler), output, atol=1e-9)
    assert torch.equal(noise[:, 1:], output[:, 1:])


def test_held_noise_is_the_schedulers_noise() -> None:
    scheduler = tiny.scheduler(prediction_type="v_prediction")
    clean, noise, t = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4), torch.tensor([300, 300])
    x, v = scheduler.add_noise(clean, noise, t), scheduler.get_velocity(clean, noise, t)
    assert torch.allclose(to_noise(v, x, t, scheduler), noise, atol=1e-5)
    scheduler = tiny.scheduler(prediction_type="sample")
    assert torch.allclose(to_noise(clean, x, t, scheduler), noise, atol=1e-5)


def test_a_context_tells_prompts_shapes_and_dtypes_apart() -> None:
    x, prompt = torch.zeros(2, 1, 4, 4), torch.ones(2, 3, 4)
    context = Context(blank(x), {"encoder_hidden_states": prompt, "mid_block_additional_residual": x})
    assert context.fits(x, {"encoder_hidden_states": prompt.clone(), "mid_block_additional_residual": x + 1})
    assert not context.fits(x, {"encoder_hidden_states": prompt + 1, "mid_block_additional_residual": x})
    assert not context.fits(x.double(), {"encoder_hidden_states": prompt, "mid_block_additional_residual": x})
    assert not context.fits(x[:1], {"encoder_hidden_states": prompt, "mid_block_additional_residual": x})
    assert not context.fits(x, {})


def test_stand_ins_leave_the_network_as_it_was_even_after_an_error() -> None:
    network = tiny.unet()
    before = {name: id(module) for name, module in network.named_modules()}
    attributes = {name: dict(module.__dict__) for name, module in network.named_modules()}
    cuts = cuts_of(network, resnets=True, attentions=True, mlps=False)
    for changes in ([c for cut in cuts for c in cut.keep], [c for cut in cuts for c in cut.recall]):
        with pytest.raises(ArithmeticError), standing_in(changes):
            _fail_unless(before != {name: id(module) for name, module in network.named_modules()})
        assert {name: id(module) for name, module in network.named_modules()} == before
        for name, module in network.named_modules():
            kept = attributes[name]
            assert module.__dict__.keys() == kept.keys()
            assert module.__dict__.get("residual_connection") == kept.get("residual_connection")


def _fail_unless(changed: bool) -> None:
    assert changed
    raise ArithmeticError


def test_a_denoiser_without_known_blocks_is_refused_by_name() -> None:
    with pytest.raises(RequestError, match=r"model=Sequential.*ResnetBlock2D"):
        cuts_of(nn.Sequential(nn.Linear(2, 2)), resnets=True, attentions=True, mlps=True)
    with pytest.raises(RequestError, match="wanted of these: none"):
        cuts_of(tiny.unet(), resnets=False, attentions=False, mlps=False)


def test_two_methods_that_reuse_features_are_refused() -> None:
    model = tiny.unconditional_model()
    frdiff().prepare(model)
    with pytest.raises(RequestError, match=r"method=\[frdiff,frdiff\]"):
        frdiff().prepare(model)


def test_only_tensors_that_will_be_read_are_kept() -> None:
    reuser, run = by_hand(tiny.unconditional_model(), [FULL, Step(frozenset(), 0.0), FULL, Step(frozenset()), FULL])
    x, t = torch.randn(1, 1, 8, 8), torch.tensor([5])
    held = []
    for _ in range(5):
        reuser(run.model.predict, x, t, {})
        context = reuser._contexts[0]
        held.append((any(f is not None for f in context.features), context.noise is not None))
        run.advance()
    assert held == [(False, True), (False, True), (True, False), (True, False), (False, False)]


@pytest.mark.parametrize("t", [0.0, 0.5, 500.25, 998.0, 998.5, 999.0, 1200.0])
def test_signal_and_noise_at_a_time_are_the_schedulers_and_those_between_lie_on_a_line_of_logarithms(t: float) -> None:
    scheduler = tiny.scheduler()
    ratios = ((1 - scheduler.alphas_cumprod.double()) / scheduler.alphas_cumprod.double()).sqrt().log().tolist()
    alpha, sigma = (float(value) for value in alpha_sigma(scheduler, torch.tensor([t]), torch.zeros(1, 1, 8, 8)))
    low = min(int(t), 999)
    part = min(t, 999) - low
    wanted = ratios[low] * (1 - part) + ratios[min(low + 1, 999)] * part
    assert math.log(sigma / alpha) == pytest.approx(wanted, rel=1e-6, abs=1e-7)
    assert alpha**2 + sigma**2 == pytest.approx(1)
