"""Generators that learn from a classifier: what they are made of and what they descend (T20 to T23, T27, T28, T33)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import datafree
from parediff.models.classifiers.generators import (
    ConditionalGenerator,
    LabelledGenerator,
    PlainGenerator,
    SuperposedGenerator,
    WideGenerator,
)
from parediff.models.classifiers.probes import look
from parediff.training.augmentations import AUGMENTATIONS, each_by_chance
from parediff.training.base import generator_of
from parediff.training.collapse import CollapseWatch
from parediff.training.generator import GeneratorObjective, GeneratorTraining, divergence
from parediff.training.generator_objectives import (
    Dfakd,
    Gdfq,
    Qimera,
    Ris,
    ZsCgan,
    batch_entropy,
    inconsistency,
    instance_entropy,
    least_alike,
    likeness,
    mixture,
    soft_labels,
)
from parediff.training.rounded_copy import rounded_copy
from parediff.training.synthesis import Diverged

GDFQ = Gdfq(latent=8, statistics=0.1, bn_eps=0.8)
RIS = Ris(GDFQ, 1.0, 0.1, 0.01, tuple(AUGMENTATIONS), "soft_min_corr", 4)
OBJECTIVES = [
    GDFQ,
    RIS,
    ZsCgan(latent=8, statistics=1.0, balance=0.0),
    Dfakd(latent=8, alpha=0.01),
    Qimera(8, 0.1, 0.8, 1.0, 0.4, 2, "classifier"),
]
IDS = [type(objective).__name__ for objective in OBJECTIVES]


def training(objective: GeneratorObjective, **changes: Any) -> GeneratorTraining:
    net = datafree.network()
    settings: dict[str, Any] = {
        "batch_size": 8,
        "learning_rate": 1e-3,
        "student": rounded_copy(net, 3) if objective.plays else None,
        "student_rate": 1e-3,
        "warmup": 2,
        "cosine": False,
        "seed": 5,
    }
    return GeneratorTraining(net, objective, datafree.SHAPE, datafree.CLASSES, **(settings | changes))


@pytest.mark.parametrize("side", [8, 14, 32])
def test_generators_make_normalised_images_of_any_side(side: int) -> None:
    shape, labels = (3, side, side), torch.arange(6) % 3
    noise = torch.randn(6, 8)
    made = [
        LabelledGenerator(shape, 3, latent=8, bn_eps=0.8)(noise, labels),
        ConditionalGenerator(shape, 3, latent=8)(noise, labels),
        SuperposedGenerator(shape, 3, latent=8, noise_scale=1.0, bn_eps=0.8, rows=None)(noise, labels),
        PlainGenerator(shape, latent=8)(noise),
        WideGenerator(shape, latent=8)(noise, labels),
    ]
    for images in made:
        assert images.shape == (6, *shape)
        assert float(images.detach().mean((0, 2, 3)).abs().max()) < 1e-4
        assert float((images.detach().var((0, 2, 3), unbiased=False) - 1).abs().max()) < 2e-2


@pytest.mark.parametrize("objective", OBJECTIVES, ids=IDS)
def test_t33_a_resumed_training_repeats_the_uninterrupted_one(objective: GeneratorObjective, tmp_path: Path) -> None:
    whole, cut, resumed = (training(objective) for _ in range(3))
    before = {name: value.clone() for name, value in whole.teacher.state_dict().items()}
    datafree.trainer(4).fit(whole, tmp_path / "whole")
    datafree.trainer(2, checkpoint_every=2).fit(cut, tmp_path / "cut")
    datafree.trainer(4, checkpoint_every=2).fit(resumed, tmp_path / "cut", ckpt_path="last")
    ends = zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in ends)
    assert all(torch.equal(before[name], value) for name, value in whole.teacher.state_dict().items())
    assert not whole.teacher.training
    assert datafree.hooks(whole.teacher) == 0
    images, targets = whole.draw(generator_of(0, 0))
    torch.testing.assert_close(targets.sum(1), torch.ones(8))
    assert images.shape == (8, *datafree.SHAPE)


def test_t20_entropies_of_uniform_sure_and_balanced_predictions() -> None:
    sure = 1e4 * F.one_hot(torch.arange(12) % 3, 3).float()
    assert float(instance_entropy(torch.zeros(4, 3))) == pytest.approx(math.log(3), abs=1e-6)
    assert float(instance_entropy(sure)) == pytest.approx(0, abs=1e-6)
    assert float(batch_entropy(sure)) == pytest.approx(math.log(3), abs=1e-6)


def test_t21_the_generator_ascends_what_the_student_descends() -> None:
    raised = lowered = 0
    for seed in range(20):
        module, rng = training(Dfakd(latent=8, alpha=0.01), seed=seed), generator_of(seed, 0)
        codes = module.objective.draw(16, 3, rng)
        student = module.student
        assert student is not None

        def gain(module: GeneratorTraining = module, codes: Any = codes, student: Any = student) -> Tensor:
            images = module.objective.images(module.network, codes)
            seen = look(module.teacher, images)
            return -module.objective.loss(module.teacher, images, seen, codes, student, torch.Generator())

        images = module.objective.images(module.network, codes).detach()
        raised += rises(gain, list(module.network.parameters()), 1e-3)
        learned = [p for p in student.parameters() if p.requires_grad]
        lowered += rises(partial(_closeness, module.teacher, student, images), learned, 1e-3)
    assert raised >= 19
    assert lowered >= 19


def _closeness(teacher: Any, student: Any, images: Tensor) -> Tensor:
    return -divergence(teacher, student, images)


def rises(value: Any, parameters: list[Tensor], rate: float) -> bool:
    """Whether a small step along the gradient raises it."""
    before = value()
    gradients = torch.autograd.grad(before, parameters, allow_unused=True)
    size = math.sqrt(sum(float(g.square().sum()) for g in gradients if g is not None))
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter += rate * gradient / max(size, 1e-9)
    return bool(value() >= before)


def test_t23_a_mixture_of_one_class_is_that_class() -> None:
    torch.manual_seed(0)
    generator = SuperposedGenerator((1, 8, 8), 3, latent=8, noise_scale=1.0, bn_eps=0.8, rows=None).eval()
    noise, labels = torch.randn(4, 2, 8), torch.tensor([[0, 1], [1, 2], [2, 0], [0, 2]])
    alone = torch.tensor([1.0, 0.0]).expand(4, 2)
    torch.testing.assert_close(generator.mixed(noise, labels, alone), generator(noise[:, 0], labels[:, 0]))
    soft = mixture(torch.tensor([[0, 0], [1, 2]]), torch.tensor([[0.3, 0.7], [0.6, 0.4]]), 3)
    torch.testing.assert_close(soft, torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.6, 0.4]]))


def test_t27_robustness_terms_vanish_for_no_change_and_are_bounded() -> None:
    net, x, rng = datafree.network(), torch.randn(8, 1, 8, 8), torch.Generator().manual_seed(0)
    seen = look(net, x)
    still = replace(RIS, weight_sigma=0.0)
    assert float(still.inconsistencies(net, x, seen, rng)[1]) == pytest.approx(0, abs=1e-5)
    assert float(inconsistency(seen.features, seen.logits, seen.features, seen.logits)) == pytest.approx(0, abs=1e-5)
    opposite = 1e3 * F.one_hot(torch.tensor([0, 1]), 2).float()
    assert float(inconsistency(opposite, opposite, opposite, opposite.flip(0))) == pytest.approx(2.0)
    codes = RIS.draw(8, 3, rng)
    endless = replace(RIS, tau=(math.inf, math.inf)).loss(net, x, seen, codes, None, rng)
    torch.testing.assert_close(endless, GDFQ.loss(net, x, seen, codes, None, rng))


def test_a_shifted_image_is_a_window_of_itself_and_its_mirror() -> None:
    x = torch.rand(64, 2, 16, 24, generator=torch.Generator().manual_seed(0))
    shifted, padded = AUGMENTATIONS["shift"](x, torch.Generator().manual_seed(1)), F.pad(x, (3, 3, 2, 2), "reflect")
    windows = {(a, b): padded[:, :, a : a + 16, b : b + 24] for a in range(5) for b in range(7)}
    places = [[place for place, window in windows.items() if torch.equal(window[i], shifted[i])] for i in range(64)]
    assert all(len(found) == 1 for found in places)
    assert {row for ((row, _),) in places} == set(range(5))
    assert {column for ((_, column),) in places} == set(range(7))


def test_each_augmentation_falls_on_a_random_half() -> None:
    x = torch.rand(400, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert each_by_chance((), x, torch.Generator()) is x
    changed = each_by_chance(("flip",), x, torch.Generator().manual_seed(1))
    as_they_were, mirrored = ((changed == wanted).flatten(1).all(1) for wanted in (x, x.flip(-1)))
    assert torch.equal(as_they_were, ~mirrored)
    assert 160 < int(mirrored.sum()) < 240


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_augmentation_keeps_the_shape_and_carries_gradients(name: str) -> None:
    x = torch.randn(4, 3, 8, 8, requires_grad=True)
    changed = AUGMENTATIONS[name](x, torch.Generator().manual_seed(0))
    assert changed.shape == x.shape
    assert not torch.equal(changed, x)
    assert bool(torch.autograd.grad(changed.square().sum(), x)[0].abs().sum() > 0)


def test_t28_the_least_alike_batch_is_chosen_and_few_labels_are_all_different() -> None:
    rng = torch.Generator().manual_seed(0)
    candidates = [soft_labels(16, 10, rng) for _ in range(8)]
    assert likeness(least_alike(candidates)) == min(map(likeness, candidates))
    few = soft_labels(10, 10, rng)
    assert sorted(few.argmax(1).tolist()) == list(range(10))
    torch.testing.assert_close(few.sum(1), torch.ones(10))
    assert bool((few.max(1).values >= 0.8).all())


def repeatedly(count: int, act: Callable[[], object]) -> None:
    for _ in range(count):
        act()


def test_a_generator_that_makes_one_class_is_stopped() -> None:
    watch = CollapseWatch(10, conditional=True)
    wanted, same = torch.arange(20) % 10, F.one_hot(torch.zeros(20, dtype=torch.long), 10).float()
    for _ in range(49):
        watch.look(same, wanted)
    with pytest.raises(Diverged, match=r"collapsed: the teacher sees 1\.\d of 10 classes after"):
        repeatedly(200, lambda: watch.look(same, wanted))
    healthy = CollapseWatch(10, conditional=True)
    for _ in range(200):
        healthy.look(F.one_hot(wanted, 10).float(), wanted)
    assert healthy.effective_classes() == pytest.approx(10, rel=1e-3)
    assert float(healthy.values()["agreement_p10"]) > 0.99


def test_a_student_that_runs_away_is_stopped() -> None:
    watch = CollapseWatch(10, conditional=False)
    for _ in range(60):
        watch.look(F.one_hot(torch.arange(10), 10).float(), torch.arange(10))
        watch.look_at_student(torch.tensor(0.1))
    with pytest.raises(Diverged, match="drifts away"):
        repeatedly(100, lambda: watch.look_at_student(torch.tensor(50.0)))


def test_a_loss_that_is_no_number_ends_the_training(tmp_path: Path) -> None:
    module = training(GDFQ)
    with torch.no_grad():
        next(module.network.parameters()).fill_(math.nan)
    with pytest.raises(Diverged, match="the loss became nan"):
        datafree.trainer(2).fit(module, tmp_path)
