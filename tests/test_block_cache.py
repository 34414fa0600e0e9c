"""Block caching: changes measured by hand arithmetic, refreshes by the threshold, work only where it is due."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tiny
from parediff.cost import counting
from parediff.errors import RequestError
from parediff.methods.block_cache import BlockCache
from parediff.models.diffusion.door import Call, recording
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.pipeline.compress import compress
from parediff.reuse.change import features_of, refreshed, relative_changes, within_budget
from parediff.reuse.engine import installed


def block_cache(**options: Any) -> BlockCache:
    defaults = {"threshold": 0.05, "steps": 6, "resnets": False, "attentions": True, "mlps": False}
    return BlockCache(**(defaults | options))


def sampler(steps: int = 6) -> Sampler:
    return Sampler(name="ddim", scheduler="DDIMScheduler", steps=steps)


def calls_of(model: DiffusionModel, steps: int = 6) -> list[Call]:
    with recording(model) as calls:
        for seed in (7, 8):
            model.generate([seed], None, sampler(steps))
    return calls


def compressed(model: DiffusionModel, method: BlockCache) -> DiffusionModel:
    student = model.copy()
    compress(student, model, {"block_cache": method}, lambda m: calls_of(m, method.steps), lambda *_: None)
    return student


def test_a_block_is_refreshed_when_its_change_adds_up() -> None:
    changes = torch.tensor([[0.0, 0.2, 0.2, 0.2, 0.2, 0.2], [0.0, 0.6, 0.1, 0.1, 0.6, 0.0]])
    assert refreshed(changes, 0.5).int().tolist() == [[1, 0, 0, 1, 0, 0], [1, 1, 0, 0, 1, 0]]
    assert refreshed(changes, 0.0).int().tolist() == [[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]]


def test_a_budget_is_met_exactly() -> None:
    changes = torch.tensor([[0.0, 0.5, 0.4, 0.1, 0.1, 0.1, 0.1, 0.9]])
    for keyframes in range(1, 9):
        fresh = within_budget(changes, keyframes)
        assert int(fresh.sum()) == keyframes
        assert bool(fresh[0, 0])
    assert within_budget(changes, 3).int().tolist() == [[1, 0, 1, 0, 0, 0, 0, 1]]


def test_change_is_the_mean_over_trajectories_of_the_relative_l1_norm() -> None:
    model, method = tiny.unconditional_model(), block_cache()
    calls = calls_of(model)
    measured = relative_changes(model, method._cuts, calls, 6)
    cuts = method._cuts(model.denoiser)
    kept = [features_of(model, cuts, call) for call in calls]
    for step in (1, 5):
        by_hand = [
            (kept[start + step][0][0] - kept[start + step - 1][0][0]).abs().mean()
            / kept[start + step][0][0].abs().mean()
            for start in (0, 6)
        ]
        assert measured[0, step] == pytest.approx(float(sum(by_hand)) / 2, rel=1e-5)
    assert bool((measured[:, 0] == 0).all())


def test_steps_that_were_not_recorded_share_the_change_that_spans_them() -> None:
    model, method = tiny.unconditional_model(), block_cache()
    calls = calls_of(model)
    sparse = relative_changes(model, method._cuts, [call for call in calls if call.step in (0, 2, 5)], 6)
    assert torch.equal(sparse[:, 1], sparse[:, 2])
    assert torch.equal(sparse[:, 3], sparse[:, 5])
    with pytest.raises(RequestError, match=r"calibration\.steps"):
        relative_changes(model, method._cuts, [call for call in calls if call.step == 3], 6)


def test_only_the_blocks_that_are_due_are_computed() -> None:
    model = tiny.unconditional_model()
    student = compressed(model, block_cache())
    fresh = student.denoiser.reuse_schedule.fresh
    assert bool(fresh[:, 0].all())
    assert 0 < int(fresh.sum()) < fresh.numel()
    with counting(student.denoiser) as counter:
        student.generate([1], None, sampler())
    cuts = block_cache()._cuts(student.denoiser)
    for cut, row in zip(cuts, fresh, strict=True):
        assert counter.layers[f"{cut.path}.to_q"].calls == int(row.sum())
    assert installed(student, "block_cache").tally.forced == 0


def test_before_it_was_measured_it_changes_nothing() -> None:
    model = tiny.unconditional_model()
    student = model.copy()
    block_cache().prepare(student)
    assert torch.equal(student.generate([1], None, sampler()), model.generate([1], None, sampler()))


def test_a_threshold_of_zero_changes_nothing_and_a_higher_one_costs_less() -> None:
    model = tiny.unconditional_model()
    exact = compressed(model, block_cache(threshold=0.0, resnets=True))
    assert torch.equal(exact.generate([1], None, sampler()), model.generate([1], None, sampler()))
    costs = []
    for threshold in (0.0, 0.1, 10.0):
        student = compressed(model, block_cache(threshold=threshold, resnets=True))
        with counting(student.denoiser) as counter:
            student.generate([1], None, sampler())
        costs.append(counter.macs)
    assert costs[0] > costs[1] > costs[2]


def test_a_schedule_serves_only_the_steps_it_was_made_for() -> None:
    student = compressed(tiny.unconditional_model(), block_cache())
    with pytest.raises(RequestError, match=r"sampler\.steps=4: 6, the steps that the schedule was learned for"):
        student.generate([1], None, sampler(4))
    with pytest.raises(RequestError, match="threshold"):
        block_cache(threshold=-1.0)
