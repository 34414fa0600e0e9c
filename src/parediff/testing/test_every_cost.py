"""Every cost, found by its YAML, keeps the contract of its family. Nothing here names one."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from torch import nn

from parediff.config.catalogue import files
from parediff.config.compose import Composer
from parediff.config.request import build
from parediff.cost.base import Cost, PairedCost, SpentCost, WatchedCost
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.tiny import DDIM, unconditional_model
from parediff.testing.smoke import smoke_of

COSTS = sorted(files("cost"))


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer("config")


def cost_of(composer: Composer, name: str) -> Cost:
    return build(composer.compose([f"cost=[{name}]", "method=[]", *smoke_of("cost", name)])).costs[name]


def watched(cost: WatchedCost, model: DiffusionModel, images: int, steps: int) -> float:
    sampler = replace(DDIM, steps=steps)
    with cost.watch(model) as per_image:
        model.generate(range(images), None, sampler)
    return per_image(images)


def hooks(network: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


@pytest.mark.parametrize("name", COSTS)
def test_a_cost_says_its_unit_and_direction(composer: Composer, name: str) -> None:
    cost = cost_of(composer, name)
    assert cost.meaning
    assert isinstance(cost.symbol, str)
    assert cost.better in ("lower", "higher")


@pytest.mark.parametrize("name", COSTS)
def test_a_cost_is_finite_repeatable_and_leaves_nothing_behind(composer: Composer, name: str) -> None:
    cost, model = cost_of(composer, name), unconditional_model()
    if isinstance(cost, PairedCost):
        before, after = cost.compare(lambda: None, lambda: sum(range(1000)), images=2)
        assert before.keys() == after.keys()
        assert before[name] >= 0
        return
    if isinstance(cost, SpentCost):
        assert cost.of({}) == 0
        assert cost.of({"seconds": 1.5, "samples": 3}) > 0
        return
    assert isinstance(cost, WatchedCost)
    first = watched(cost, model, 1, 2)
    assert first > 0
    assert math.isfinite(first)
    assert watched(cost, model, 1, 2) == first
    assert hooks(model.denoiser) == 0
    assert not model.observers
    assert "forward" not in model.denoiser.__dict__


@pytest.mark.parametrize("name", COSTS)
def test_a_cost_of_an_image_does_not_depend_on_the_batch_and_fewer_steps_cost_no_more(
    composer: Composer, name: str
) -> None:
    cost, model = cost_of(composer, name), unconditional_model()
    if not isinstance(cost, WatchedCost) or cost.alone:
        pytest.skip("looks at one image by itself, or at pairs")
    one = watched(cost, model, 1, 2)
    assert watched(cost, model, 3, 2) == one
    assert watched(cost, model, 1, 1) <= one


@pytest.mark.parametrize("name", COSTS)
def test_a_cost_of_a_classifier_is_counted_alike(composer: Composer, name: str) -> None:
    request = build(composer.compose(["model=classifier_digits", f"cost=[{name}]", "workload.batch_size=4"]))
    cost, model = request.costs[name], request.model.load("cpu")
    if not isinstance(cost, WatchedCost):
        pytest.skip("timed in pairs, or spent once, alike for every model")
    with cost.watch(model) as per_image:
        request.task.few(model, 2, as_reference=False)()
    assert per_image(2) > 0
    assert not model.observers
