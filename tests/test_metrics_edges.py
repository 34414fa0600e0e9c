"""Metrics at their edges: ties, zeros, sides of unequal length, and what they compare equal on record."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from parediff.errors import RequestError
from parediff.metrics import clean, inception
from parediff.metrics.cosine import CosineSimilarity
from parediff.metrics.dinov2 import MEAN, STD, Dinov2
from parediff.metrics.extractors import check_photographs, coloured
from parediff.metrics.inception_score import InceptionScore, Predictions
from parediff.metrics.neighbours import Coverage, Density, Neighbourhood, Precision, Recall
from parediff.metrics.reference import DataReference, PublishedStatistics
from parediff.metrics.ssim import StructuralSimilarity
from parediff.metrics.weights import WeightsFile
from parediff.sampling.batch import Batch
from test_metrics import Brightness, Noise, grey
from test_neighbours import Known


class Inception:
    """Stands for the extractor of that name."""

    name = "inception"


REAL = np.array([[0.0], [1.0], [3.0]])  # whose balls of one neighbour reach 1, 1 and 2 far
MADE = np.array([[2.0], [9.0]])  # whose balls reach 7 far


@pytest.mark.parametrize(("kind", "expected"), [(Precision, 1 / 2), (Recall, 1.0), (Density, 2 / 2), (Coverage, 2 / 3)])
def test_the_edge_of_a_ball_belongs_to_it(kind: type[Neighbourhood], expected: float) -> None:
    known: Any = Known()
    metric = kind(extractor=known, reference=known, neighbours=1, capacity=100, seed=0)
    metric.real = REAL
    assert metric.share(MADE) == pytest.approx(expected)


def test_as_many_images_as_neighbours_have_no_number() -> None:
    known: Any = Known()
    metric = Precision(extractor=known, reference=known, neighbours=2, capacity=100, seed=0)
    metric.real = REAL
    assert metric.value(type("Statistic", (), {"features": MADE})) is None  # type: ignore[arg-type]
    assert metric.value(type("Statistic", (), {"features": REAL})) == 1  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="capacity"):
        Precision(extractor=known, reference=known, neighbours=2, capacity=2, seed=0)


def test_a_class_that_is_ruled_out_adds_nothing_to_the_inception_score() -> None:
    found = Predictions.of(np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]))
    assert (found.count, found.probabilities.tolist()) == (2, [1.5, 0.5, 0.0])
    assert found.log_likelihood == pytest.approx(np.log(0.5))


def test_every_block_after_the_first_takes_its_own_batches() -> None:
    metric = Brightness()
    for levels in ((0, 10), (20, 30), (40, 80)):
        for level in levels:
            metric.update(grey(level))
        metric.next_block()
    assert [block.value for block in metric._blocks] == [5, 25, 60]


def test_every_frame_of_a_video_is_judged_under_its_videos_condition() -> None:
    taken: list[Any] = []

    class Noting(Brightness):
        def measure(self, batch: torch.Tensor, reference: torch.Tensor | None, conditions: Any) -> Any:
            taken.append((len(batch), conditions))
            return super().measure(batch, reference, conditions)

    videos = torch.zeros(2, 3, 1, 8, 8, dtype=torch.uint8)
    Noting().take(Batch(range(2), videos, ("cat", "dog"), 0, videos[:, 0]), None)
    assert taken == [(6, ("cat",) * 3 + ("dog",) * 3)]


@pytest.mark.parametrize(("channels", "taken"), [(1, True), (2, False), (3, True), (4, False)])
def test_photographs_are_grey_or_of_three_colours(channels: int, taken: bool) -> None:
    known: Any = Inception()
    with contextlib.nullcontext() if taken else pytest.raises(RequestError):
        check_photographs(known, (channels, 8, 8))


def test_images_that_are_no_photographs_are_refused_before_they_are_drawn() -> None:
    score = InceptionScore(extractor=inception.Inception(path=None))
    for check in (Dinov2(model="unused", path=None).check, functools.partial(score.check, None)):
        with pytest.raises(RequestError, match="images of 1 or 3 channels are accepted, not 4"):
            check((4, 8, 8))


def test_weights_that_are_not_where_they_are_said_to_be_are_named(tmp_path: Path) -> None:
    file = WeightsFile("weights.pth", "https://example.org/weights.pth")
    with pytest.raises(RequestError, match=r"no such file; weights\.pth from https://example\.org/weights\.pth is"):
        file.locate(str(tmp_path / "elsewhere.pth"))
    (tmp_path / "here.pth").touch()
    assert file.locate(str(tmp_path / "here.pth")) == tmp_path / "here.pth"


@pytest.mark.parametrize(
    ("side", "sigma", "width"), [(11, 1.5, 11), (10, 1.5, 11), (8, 1.0, 9), (9, 1.0, 9), (5, 0.5, 5)]
)
def test_a_window_of_ssim_lies_within_the_image(side: int, sigma: float, width: int) -> None:
    metric = StructuralSimilarity(sigma=sigma)
    with contextlib.nullcontext() if width <= side else pytest.raises(RequestError, match=f"is {width} wide"):
        metric.check(None, (1, side, side))


def test_grey_images_become_three_equal_colours_and_others_stay() -> None:
    made = torch.arange(8).reshape(2, 1, 2, 2)
    assert torch.equal(coloured(made), torch.cat([made] * 3, dim=1))
    assert coloured(made.reshape(1, 2, 2, 2)).shape == (1, 2, 2, 2)


def test_dinov2_sees_images_normalised_as_those_of_imagenet() -> None:
    from torchvision.transforms._presets import ImageClassification

    published = ImageClassification(crop_size=224)
    assert (list(MEAN), list(STD)) == (list(published.mean), list(published.std))


def test_the_cosine_says_what_it_is_the_mean_of() -> None:
    assert CosineSimilarity().fingerprint() == {"range": "-1 to 1", "mean": "over images"}


def test_a_reference_set_is_known_by_name_split_count_and_images() -> None:
    told = DataReference(Noise(30), "train", 16, 20, False).fingerprint()
    assert {key: told[key] for key in ("data", "split", "count")} == {"data": "noise", "split": "train", "count": 20}
    assert told["images"] != DataReference(Noise(30), "held_out", 16, 20, False).fingerprint()["images"]


@pytest.fixture
def published(tmp_path: Path) -> Callable[..., PublishedStatistics]:
    def made(**changes: Any) -> PublishedStatistics:
        np.savez(tmp_path / "own.npz", mu=np.zeros(2), sigma=np.eye(2))
        given = {"name": "cifar10", "resolution": 32, "split": "train", "path": str(tmp_path / "own.npz")}
        return PublishedStatistics(**given | changes)

    return made


def test_published_statistics_are_of_one_size(published: Callable[..., PublishedStatistics]) -> None:
    known: Any = Inception()
    published().check(known, (3, 32, 32))
    published(resolution="na").check(known, (3, 64, 64))
    for shape in ((3, 64, 64), (3, 32, 64)):
        with pytest.raises(RequestError, match=r"reference\.resolution"):
            published().check(known, shape)


def test_published_statistics_are_known_by_name_and_file(published: Callable[..., PublishedStatistics]) -> None:
    own = published()
    assert own.label == "cifar10"
    told = own.fingerprint()
    assert {key: told[key] for key in ("statistics", "resolution", "split")} == {
        "statistics": "cifar10",
        "resolution": 32,
        "split": "train",
    }
    assert told["file"]
    assert published(path=None).fingerprint() == {"statistics": "cifar10", "resolution": 32, "split": "train"}


def test_published_features_are_taken_as_they_are_or_drawn_from(
    published: Callable[..., PublishedStatistics], tmp_path: Path
) -> None:
    features = np.arange(12.0).reshape(6, 2)
    np.savez(tmp_path / "kid.npz", feats=features)
    known: Any = Inception()
    own = published(path=str(tmp_path / "kid.npz"))
    assert sorted(own.sample(known, 10, 0)[:, 0]) == features[:, 0].tolist()
    drawn = own.sample(known, 3, 0)
    assert drawn.shape == (3, 2)
    assert {*drawn[:, 0]} < {*features[:, 0]}
    assert np.array_equal(drawn, own.sample(known, 3, 0))


def test_weights_are_fetched_once_and_those_with_another_digest_never_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    origin = tmp_path / "origin.bin"
    origin.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    good = WeightsFile("good.pth", origin.as_uri(), digest[:8])
    assert good.locate(None).read_bytes() == b"weights"
    origin.unlink()
    assert good.locate(None) == good.cached
    origin.write_bytes(b"others")
    with pytest.raises(RequestError, match=f"SHA-256 starts with {hashlib.sha256(b'others').hexdigest()[:8]}"):
        WeightsFile("bad.pth", origin.as_uri(), digest[:8]).locate(None)
    assert [path.name for path in good.cached.parent.iterdir()] == ["good.pth"]


@pytest.mark.parametrize(("kind", "file"), [("FID", "cifar10_clean_train_32"), ("KID", "cifar10_clean_train_32_kid")])
def test_statistics_that_cannot_be_fetched_are_named_by_their_file(
    monkeypatch: pytest.MonkeyPatch, kind: Any, file: str
) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("cleanfid.features.get_reference_statistics", unreachable)
    with pytest.raises(RequestError, match=rf"{file}\.npz is not in clean-fid's folder"):
        clean.published("cifar10", 32, "train", kind)
