"""Numbers that are none: a run that meets one fails and says where."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import tiny
from parediff.metrics.extractors import Extractor
from parediff.models.finite import NotFinite, first_layer, require_finite
from parediff.pipeline.evaluate import finite
from parediff.sampling.images import images
from parediff.sampling.workload import Workload
from parediff.training.base import Learner, generator_of

WORKLOAD = Workload(first_seed=0, count=2, batch_size=2)


def test_a_weight_that_is_nan_is_told_by_layer_and_step() -> None:
    model = tiny.unconditional_model()
    model.denoiser.mid_block.resnets[0].conv1.weight.data[0] = math.nan
    with pytest.raises(NotFinite, match=r"step 0 \(t = \d+\), in layer mid_block\.resnets\.0\.conv1: its weight"):
        next(images(model, WORKLOAD, tiny.DDIM))
    assert not model.observers
    assert all(not module._forward_hooks for module in model.denoiser.modules())


def test_a_network_that_breaks_on_the_way_is_told_by_its_step() -> None:
    model = tiny.unconditional_model()

    class Breaking(nn.Module):
        """Infinite once time is short."""

        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner, self.calls = inner, 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.inner(x) * (math.inf if self.calls % tiny.DDIM.steps == 4 else 1)

    model.denoiser.conv_out = Breaking(model.denoiser.conv_out)
    model.denoiser.conv_out.calls = 0
    with pytest.raises(NotFinite, match=r"first at step 3 "):
        next(images(model, WORKLOAD, tiny.DDIM))


def test_images_of_a_sound_network_pass() -> None:
    assert len(next(images(tiny.unconditional_model(), WORKLOAD, tiny.DDIM)).outputs) == 2


def test_the_first_layer_whose_output_is_infinite_is_the_one_named() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    found: list[str] = []
    with first_layer(network, found.append):
        network(torch.full((1, 2), 3e38) * 10)
    assert found == ["0: its output"]


def test_features_and_numbers_that_are_none_are_refused() -> None:
    class Broken(Extractor):
        name = "broken"

        def features(self, images: Tensor) -> Tensor:
            return torch.full((len(images), 2), math.nan)

        def fingerprint(self) -> dict[str, str]:
            return {}

    with pytest.raises(NotFinite, match="features of broken: 6 of 6 values"):
        Broken().rows(torch.zeros(3, 1, 8, 8, dtype=torch.uint8))
    assert finite("psnr", None) is None
    for value in (math.nan, math.inf):
        with pytest.raises(NotFinite, match="psnr is"):
            finite("psnr", value)
    assert require_finite(torch.tensor([1]), "classes") == 1


def test_a_loss_that_is_nan_names_the_step_and_the_layer() -> None:
    class Sum(Learner):
        def loss(self, batch: Tensor, generator: torch.Generator) -> Tensor:
            return self.network(batch).sum()

    settings = {
        "learning_rate": 0.1,
        "schedule": "cosine",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "ema_decay": 0.0,
        "seed": 0,
    }
    learner = Sum(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)), **settings)  # type: ignore[arg-type]
    learner.network[1].bias.data[0] = math.nan  # type: ignore[index, union-attr]
    assert not torch.isfinite(learner.loss(torch.ones(1, 2), generator_of(0, 0)))
    with pytest.raises(NotFinite, match=r"training step 0 is NaN or infinite: first in layer network\.1: its bias"):
        learner.training_step(torch.ones(1, 2), 0)
