"""Images fitted to a classifier: swings, margins, resuming, and what the sources make (T16, T24, T33)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import datafree
from parediff.calibration.genie import Genie
from parediff.calibration.images import ImageSource
from parediff.calibration.intraq import Centres, IntraQ
from parediff.calibration.noise import Noise
from parediff.calibration.zeroq import ZeroQ
from parediff.errors import RequestError
from parediff.models.classifiers.probes import look
from parediff.models.classifiers.statistics import deviation_loss, moments, per_image_loss
from parediff.training.image_fitting import CodeFitting, MatchEachImage, PixelFitting, shifted_by, swinging
from parediff.training.intra_class import margins

SOURCES: list[ImageSource] = [
    Noise(7, 5, 3),
    ZeroQ(7, 5, 3, steps=3, learning_rate=0.5, patience=1, least_rate=1e-4),
    Genie(7, 5, 3, steps=3, latent=4, code_rate=0.1, generator_rate=0.01, swing=True),
    IntraQ(7, 5, 3, 3, 0.5, 1, 1e-4, sure_from=0.95, nearest=0.05, farthest=0.8, reinforced=0.5),
]
IDS = [type(source).__name__ for source in SOURCES]


@pytest.mark.parametrize("side", [5, 8])
def test_t16_a_swing_of_one_is_the_plain_convolution_and_any_keeps_the_shape(side: int) -> None:
    x = torch.randn(2, 3, side, side)
    assert torch.equal(shifted_by(x, 1, 1), x)
    assert torch.equal(shifted_by(x, 0, 1)[..., 1:, :], x[..., :-1, :])
    assert shifted_by(x, 2, 0).shape == x.shape


def test_t16_all_nine_offsets_come_alike_and_only_strided_convolutions_swing() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 1, stride=2, bias=False), nn.Conv2d(1, 1, 1, bias=False))
    nn.init.ones_(net[0].weight)
    nn.init.ones_(net[1].weight)
    x, before = torch.arange(16.0).reshape(1, 1, 4, 4), list(net.modules())
    with swinging(net, torch.Generator().manual_seed(0), on=True):
        assert type(net[1]) is nn.Conv2d
        seen = Counter(tuple(net(x).flatten().tolist()) for _ in range(1800))
    assert len(seen) == 9
    chi_square = sum((count - 200) ** 2 / 200 for count in seen.values())
    assert chi_square < 26.1  # p = 1e-3 with 8 degrees of freedom
    assert list(net.modules()) == before


def fitting(kind: str) -> Any:
    net = datafree.network()
    if kind == "codes":
        settings: dict[str, Any] = {"count": 4, "latent": 4, "code_rate": 0.1, "generator_rate": 0.01}
        return CodeFitting(net, datafree.SHAPE, swing=True, seed=3, **settings)
    start = torch.randn(4, *datafree.SHAPE, generator=torch.Generator().manual_seed(1))
    return PixelFitting(net, MatchEachImage(), start, learning_rate=0.5, patience=1, least_rate=1e-4, seed=3)


@pytest.mark.parametrize("kind", ["pixels", "codes"])
def test_t33_a_resumed_fitting_repeats_the_uninterrupted_one(kind: str, tmp_path: Path) -> None:
    whole, cut, resumed, again = (fitting(kind) for _ in range(4))
    datafree.trainer(6).fit(whole, tmp_path / "whole")
    datafree.trainer(3, checkpoint_every=3).fit(cut, tmp_path / "cut")
    datafree.trainer(6, checkpoint_every=3).fit(resumed, tmp_path / "cut", ckpt_path="last")
    assert torch.equal(whole.result(), resumed.result())
    datafree.trainer(6, checkpoint_every=3).fit(again, tmp_path / "cut", ckpt_path="last")  # nothing is left to do
    assert torch.equal(whole.result(), again.result())
    assert datafree.hooks(whole.teacher) == 0


@pytest.mark.parametrize("source", SOURCES, ids=IDS)
def test_a_source_makes_as_many_images_as_asked_and_the_same_ones_again(source: ImageSource, tmp_path: Path) -> None:
    first, again = (list(source.make(datafree.studio(tmp_path / str(turn)))) for turn in range(2))
    assert [len(images) for images, _ in first] == [3, 2]
    for (images, labels), (same, _) in zip(first, again, strict=True):
        assert images.shape[1:] == datafree.SHAPE
        assert labels.dtype == torch.int64
        assert torch.equal(images, same)


def test_images_come_closer_to_the_statistics_than_the_noise_they_start_from(tmp_path: Path) -> None:
    net = datafree.network()
    noise = look(net, torch.randn(16, 1, 8, 8)).norm_inputs
    zeroq = ZeroQ(7, 16, 16, steps=40, learning_rate=0.1, patience=100, least_rate=1e-4)
    genie = Genie(7, 16, 16, steps=40, latent=8, code_rate=0.1, generator_rate=0.01, swing=True)
    made = [next(iter(source.make(datafree.studio(tmp_path, net))))[0] for source in (zeroq, genie)]
    assert float(per_image_loss(look(net, made[0]).norm_inputs)) < 0.5 * float(per_image_loss(noise))
    assert float(deviation_loss(look(net, made[1]).norm_inputs)) < 0.5 * float(deviation_loss(noise))


@pytest.mark.parametrize(("axes", "correction"), [((0, 2, 3), 0), ((0, 2, 3), 1), ((2, 3), 1)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_moments_and_their_gradients_are_torchs_own(axes: Any, correction: int, memory_format: Any) -> None:
    drawn = 3 + 2 * torch.randn(5, 4, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = drawn.contiguous(memory_format=memory_format).requires_grad_()
    found = moments(x, axes, correction=correction)
    wanted = x.mean(axes), x.var(axes, correction=correction)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
        weights = torch.linspace(-1, 2, one.numel(), dtype=torch.float64).reshape(one.shape)
        mine, theirs = (torch.autograd.grad((each * weights).sum(), x, retain_graph=True)[0] for each in (one, other))
        torch.testing.assert_close(mine, theirs)


def test_t24_margins_are_exact_at_the_centre_and_beyond_the_farthest() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    centre = torch.tensor([[3.0, 0.0]]).expand(3, 2)
    expected = torch.tensor([0.05, 0.2, 0.0])
    torch.testing.assert_close(margins(features, centre, 0.05, 0.8), expected, atol=1e-6, rtol=0)


def test_class_means_are_of_finished_batches_only() -> None:
    centres = Centres(3)
    assert centres.means() is None
    centres.add(torch.tensor([[1.0], [3.0], [8.0]]), torch.tensor([0, 0, 1]))
    means = centres.means()
    assert means is not None
    assert means.flatten().tolist() == [2.0, 8.0, 4.0]  # no image of the third class yet: the mean of all


@pytest.mark.parametrize("kind", [Genie, IntraQ])
def test_statistics_of_a_single_image_are_refused(kind: Any) -> None:
    source = next(source for source in SOURCES if isinstance(source, kind))
    changed = {name: getattr(source, name) for name in source.__dataclass_fields__} | {"count": 4}
    with pytest.raises(RequestError, match=r"^batch_size=1: 2 or more in every batch"):
        kind(**changed)


def test_data_of_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    studio = datafree.studio(tmp_path)
    studio.data().classes.append("d")
    with pytest.raises(RequestError, match="data=4 classes: images of 3 classes, as tiny knows, is accepted"):
        type(studio).of(studio.teacher, studio.data, studio.fit)
