"""A diffusion model's images for a classifier, and the calls it is sensitive at (F3, F5 of data-free-diffusion.md)."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import datafree
import tiny
from parediff.calibration.diffusion_samples import DiffusionSamples
from parediff.calibration.sensitive import Sensitive, chosen
from parediff.errors import RequestError

SEED = 10**9


def samples(confidence: float, **changes: Any) -> DiffusionSamples:
    model = SimpleNamespace(name="tiny", load=lambda _: tiny.unconditional_model(), image_shape=lambda: (1, 8, 8))
    settings: dict[str, Any] = {"first_seed": SEED, "count": 5, "batch_size": 3, "attempts": 2}
    return DiffusionSamples(**(settings | changes), model=model, sampler=tiny.DDIM, confidence=confidence)


def test_images_of_a_diffusion_model_calibrate_a_classifier(tmp_path: Path) -> None:
    made = list(samples(0.0).make(datafree.studio(tmp_path)))
    assert sum(len(images) for images, _ in made) == 5
    images = torch.cat([part for part, _ in made])
    assert images.shape[1:] == datafree.SHAPE
    assert float(images.abs().max()) <= 1
    again = torch.cat([part for part, _ in samples(0.0, batch_size=5).make(datafree.studio(tmp_path))])
    torch.testing.assert_close(images, again, atol=1e-4, rtol=0)


def test_images_the_classifier_doubts_are_dropped_and_too_few_are_told(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"calibration\.confidence=0\.9999: .*5 of 10 images reach; \d did"):
        list(samples(0.9999).make(datafree.studio(tmp_path)))


def test_half_of_the_kept_rows_are_the_most_sensitive() -> None:
    moved = torch.tensor([0.0, 9.0, 1.0, 8.0, 2.0, 7.0, 3.0, 6.0])
    kept = chosen(moved, 0.5, torch.Generator().manual_seed(0))
    assert len(set(kept)) == 4
    assert {1, 3} <= set(kept)
    assert kept == sorted(kept)
    assert chosen(moved, 1.0, torch.Generator()) == list(range(8))


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_every_kept_step_keeps_its_share_with_both_branches(guidance: float) -> None:
    model = tiny.class_model(guidance_scale=guidance)
    before = {name: value.clone() for name, value in model.denoiser.state_dict().items()}
    calls = list(Sensitive(SEED, 4, 4, 3, 0.5, 0.01).record(model, tiny.DDIM))
    assert len(calls) == 3
    assert {len(call.x) for call in calls} == {2 if guidance == 1 else 4}
    assert all(torch.equal(before[name], value) for name, value in model.denoiser.state_dict().items())
