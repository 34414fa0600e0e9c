"""Keyframes placed by what they do to the image: the search against all schedules, and what it leaves in a network."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny
from parediff.calibration.base import LazyCalls, drawn
from parediff.calibration.real_data import RealData
from parediff.calibration.uniform import Uniform
from parediff.errors import RequestError
from parediff.models.diffusion.load import PretrainedPipeline
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.pipeline.compress import compress, restore
from parediff.reuse.measured import Measure, keyframes_of, least, moved, starts
from parediff.reuse.schedules import Schedule
from reusing import deepcache, frdiff

STEPS = replace(tiny.DDIM, steps=8)
MEASURE = Measure(STEPS, replace(tiny.DDIM, steps=12), images=4)
SOURCE = Uniform(first_seed=10**9, count=6, batch_size=3, steps=2)


def placed(method: Any, model: DiffusionModel | None = None, source: Any = SOURCE) -> DiffusionModel:
    """A model whose keyframes were placed."""
    teacher = model or tiny.unconditional_model()
    student = teacher.copy()
    compress(student, teacher, {"reuse": method}, lambda m: LazyCalls(source, m, STEPS), lambda name, module: None)
    return student


def errors_of(model: DiffusionModel, keyframes: frozenset[int], source: Uniform, measure: Measure) -> Tensor:
    """What the search makes small, from images that are drawn one by one with listed keyframes."""
    student = model.copy()
    deepcache(keyframes=tuple(keyframes), branch=0).prepare(student)
    errors = []
    for seed in source.seeds:
        found = student.generate((seed,), student.conditions_for((seed,)), measure.sampler)
        exact = model.generate((seed,), model.conditions_for((seed,)), measure.reference)
        errors.append(math.log(float((found - exact).square().mean())))
    return torch.tensor(errors)


def test_the_search_finds_the_best_of_all_schedules_where_moves_lead_there() -> None:
    """A separable error, which has no other hollows: the distance of each keyframe from where it should stand."""
    wanted = (0, 1, 2, 5, 9)

    def errors(keys: frozenset[int]) -> Tensor:
        return torch.tensor([float(sum((a - b) ** 2 for a, b in zip(sorted(keys), wanted, strict=True)))])

    every = (frozenset((0, *rest)) for rest in combinations(range(1, 12), 4))
    found = least([frozenset((0, 3, 6, 9, 11))], 12, frozenset({0}), errors)
    assert found == min(every, key=lambda keys: float(errors(keys))) == frozenset(wanted)


@pytest.mark.parametrize(("spread", "moves"), [(0.1, True), (10.0, False)])
def test_what_the_images_do_not_agree_on_moves_nothing(spread: float, moves: bool) -> None:
    """The error of 16 images falls by 0.5 on average where a keyframe is moved, by very different amounts or not."""
    start, other = frozenset({0, 3}), frozenset({0, 2})
    chance = torch.randn(16, generator=torch.Generator().manual_seed(0))
    fall = 0.5 + spread * (chance - chance.mean())
    assert least([start], 4, frozenset({0}), lambda keys: -fall * (keys == other)) == (other if moves else start)


def test_the_best_start_is_where_the_search_begins_and_no_schedule_is_drawn_twice() -> None:
    asked: list[frozenset[int]] = []

    def errors(keys: frozenset[int]) -> Tensor:
        asked.append(keys)
        return torch.zeros(2) if keys == frozenset({0, 1}) else torch.ones(2)

    assert least([frozenset({0, 4}), frozenset({0, 1})], 6, frozenset({0}), errors) == frozenset({0, 1})
    assert len(asked) == len(set(asked))


def test_step_0_and_ends_that_are_kept_full_stay() -> None:
    schedule = Schedule("measured", 3, 0, 1.4, first_full=2, last_full=1)
    every = starts(schedule, 12)
    assert len({len(keys) for keys in every}) == 1
    assert all({0, 1, 11} <= keys for keys in every)
    for keys in moved(every[0], 12, schedule.ends(12)):
        assert {0, 1, 11} <= keys
        assert len(keys) == len(every[0])
        assert len(keys - every[0]) == 1


def test_starts_are_the_even_schedule_and_early_ones() -> None:
    even, *early = starts(Schedule("measured", 3, 15, 1.4, 1, 0), 20)
    assert sorted(even) == [0, 3, 6, 9, 12, 15, 18]
    assert early
    assert all(sum(keys) < sum(even) and 0 in keys for keys in early)


def test_no_neighbour_is_better_than_what_was_found() -> None:
    model = PretrainedPipeline(name="ddpm_digits", path="assets://ddpm_digits").load("cpu")
    steps, source = replace(STEPS, steps=12), replace(SOURCE, count=8)
    measure = Measure(steps, replace(STEPS, steps=24), images=8)
    found = keyframes_of(placed(deepcache(keyframes="measured", branch=0, measure=measure), model, source).denoiser)
    schedule = Schedule("measured", 3, 15, 1.4, 1, 0)
    best = errors_of(model, found, source, measure)
    assert len(found) == len(schedule.over(12)) == 4
    assert float(best.mean()) < float(errors_of(model, schedule.over(12), source, measure).mean())
    for keys in moved(found, 12, schedule.ends(12)):
        gain = best - errors_of(model, keys, source, measure)
        assert float(gain.mean()) <= float(gain.std()) / math.sqrt(8) + 1e-4


@pytest.mark.parametrize("method", [frdiff, deepcache])
def test_keyframes_are_told_saved_and_restored(method: Any) -> None:
    own, teacher = method(keyframes="measured", measure=MEASURE), tiny.unconditional_model()
    student = teacher.copy()
    state = compress(student, teacher, {"own": own}, lambda m: LazyCalls(SOURCE, m, STEPS), lambda name, module: None)
    twin = teacher.copy()
    restore(twin, {"own": own}, state)
    told = own.fired(student)["keyframes"]
    assert own.fired(twin)["keyframes"] == told == sorted(keyframes_of(twin.denoiser))
    images = [one.generate((1, 2), one.conditions_for((1, 2)), STEPS) for one in (student, twin)]
    assert torch.equal(*images)
    listed = teacher.copy()
    method(keyframes=tuple(told)).prepare(listed)
    assert torch.equal(images[0], listed.generate((1, 2), listed.conditions_for((1, 2)), STEPS))


@pytest.mark.parametrize(("scale", "branches"), [(1.0, 1), (2.0, 2)])
def test_what_is_spent_is_counted_in_every_branch_of_guidance(scale: float, branches: int) -> None:
    teacher = tiny.class_model(scale)
    calls = LazyCalls(SOURCE, teacher, STEPS)
    own = deepcache(branch=0, keyframes="measured", measure=MEASURE)
    student = teacher.copy()
    compress(student, teacher, {"own": own}, lambda m: calls, lambda name, module: None)
    schedules, left = divmod(calls.rows // branches - 4 * 12, 4 * 8)
    assert calls.rows % branches == left == 0
    assert schedules >= len(starts(Schedule("measured", 2, 15, 1.4, 1, 0), 8))


def test_images_of_the_calibration_are_those_of_its_first_seeds() -> None:
    model = tiny.unconditional_model()
    found = drawn(LazyCalls(SOURCE, model, STEPS), model, STEPS, 4)
    seeds = tuple(SOURCE.seeds)[:4]
    assert torch.equal(found, torch.cat([model.generate((s,), model.conditions_for((s,)), STEPS) for s in seeds]))


@pytest.mark.parametrize(
    ("asked", "source", "message"),
    [
        ({"measure": replace(MEASURE, images=7)}, SOURCE, r"calibration\.count=6: at least 7"),
        ({"measure": MEASURE}, "noised", "follows the model's own trajectories"),
    ],
)
def test_what_cannot_be_measured_is_told(asked: dict[str, Any], source: Any, message: str) -> None:
    other = object.__new__(RealData) if source == "noised" else source
    with pytest.raises(RequestError, match=message):
        placed(frdiff(keyframes="measured", **asked), source=other)


def test_other_steps_and_nothing_to_measure_are_refused() -> None:
    with pytest.raises(RequestError, match="measure"):
        frdiff(keyframes="measured")
    student = placed(frdiff(keyframes="measured", measure=MEASURE))
    with pytest.raises(RequestError, match=r"sampler\.steps=5"):
        student.generate((0,), student.conditions_for((0,)), replace(STEPS, steps=5))
