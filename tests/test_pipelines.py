"""Every architecture that people run keeps the promises of a model."""

from __future__ import annotations

import pytest
import torch

import pipelines
from parediff.models.diffusion.door import recording
from parediff.models.diffusion.sampler import Sampler

OWN = Sampler("own", None, 3)


@pytest.mark.parametrize("name", pipelines.KINDS)
def test_image_i_depends_on_seed_i_and_condition_i_only(name: str) -> None:
    model = pipelines.model(name)
    conditions = pipelines.conditions(name, 2)
    together = model.generate([3, 7], conditions, OWN)
    alone = model.generate([7], conditions and conditions[1:], OWN)
    assert torch.isfinite(together).all()
    assert (together.min() >= 0 and together.max() <= 1) or name == "stable_cascade"
    assert torch.allclose(together[1:], alone, atol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=1e-3)
    frames = pipelines.KINDS[name].frames
    assert together.shape[1] == frames if frames else together.ndim == 4


@pytest.mark.parametrize("name", pipelines.KINDS)
def test_a_recorded_call_replays_and_its_time_is_known_before(name: str) -> None:
    model = pipelines.model(name)
    with recording(model) as calls:
        model.generate([3], pipelines.conditions(name, 1), OWN)
    with torch.no_grad():
        outputs = [model.predict(call.x, call.t, call.cond) for call in calls]
    assert all(torch.isfinite(output).all() for output in outputs)
    seen = torch.cat([call.t.double().reshape(-1) for call in calls]).unique()
    assert torch.equal(model.times(OWN), seen)
