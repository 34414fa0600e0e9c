"""Every extractor reads the format its weights are published in, and says what to do where there are none."""

from __future__ import annotations

import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from parediff.errors import RequestError
from parediff.metrics import clean
from parediff.metrics.clip import ClipScore
from parediff.metrics.dinov2 import Dinov2
from parediff.metrics.frechet import FrechetDistance
from parediff.metrics.inception import INCEPTION, Inception
from parediff.metrics.inception_score import InceptionScore
from parediff.metrics.kernel import KernelDistance
from parediff.metrics.lpips import PerceptualDistance
from parediff.metrics.reference import DataReference, PublishedStatistics
from parediff.metrics.statistics import Moments
from parediff.metrics.weights import WeightsFile
from parediff.testing import networks


def images(count: int, seed: int = 0, shape: tuple[int, int, int] = (3, 20, 20)) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, *shape), generator=generator, dtype=torch.uint8)


class Stored:
    """A data module of given images."""

    name, image_shape = "stored", (3, 20, 20)

    def __init__(self, pixels: Tensor) -> None:
        self.train = self.held_out = TensorDataset(pixels.float() / 127.5 - 1, torch.zeros(len(pixels)))


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Inception:
    return Inception(path=str(networks.inception(tmp_path_factory.mktemp("inception"))))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """40 and 30 images as PNG files."""
    from PIL import Image

    made = []
    for name, count, seed in (("left", 40, 1), ("right", 30, 2)):
        folder = tmp_path_factory.mktemp(name)
        for index, image in enumerate(images(count, seed)):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{index:03}.png")
        made.append(folder)
    return made[0], made[1]


def reference(count: int, seed: int) -> DataReference:
    return DataReference(data=Stored(images(count, seed)), split="train", batch_size=16, count=None, foreign=False)


def in_double(left: np.ndarray, right: np.ndarray) -> float:
    """The Fréchet distance from features themselves: tr sqrt(C1 C2) is the nuclear norm of their cross product."""
    (m1, x1), (m2, x2) = ((x.mean(0), (x - x.mean(0)) / np.sqrt(len(x) - 1)) for x in (left, right))
    cross = np.linalg.svd(x1 @ x2.T, compute_uv=False).sum()
    return float(((m1 - m2) ** 2).sum() + np.square(x1).sum() + np.square(x2).sum() - 2 * cross)


def test_fid_is_what_clean_fid_itself_computes_from_the_same_files(inception: Inception, folders: Any) -> None:
    from cleanfid import fid

    network = inception.network
    theirs = fid.compute_fid(
        *map(str, folders),
        mode="clean",
        custom_feat_extractor=lambda x: network.layers((x - 128) / 128),
        num_workers=0,
        device=torch.device("cpu"),
        verbose=False,
    )
    metric = FrechetDistance(extractor=inception, reference=reference(30, 2))
    for batch in images(40, 1).split(7):
        metric.update(batch)
    assert metric.compute() == pytest.approx(theirs, rel=1e-6)
    rows = [inception.features(images(*asked)).double().numpy() for asked in ((40, 1), (30, 2))]
    assert metric.compute() == pytest.approx(in_double(*rows), rel=1e-6)


def test_kid_is_clean_fids_own_distance_between_the_same_features(inception: Inception) -> None:
    from cleanfid.fid import kernel_distance

    metric = KernelDistance(
        extractor=inception, reference=reference(30, 2), subsets=3, subset_size=30, capacity=30, seed=0
    )
    metric.update(images(30, 1))
    rows = [inception.features(images(30, seed)).double().numpy() for seed in (1, 2)]
    assert metric.compute() == pytest.approx(kernel_distance(*rows, num_subsets=1, max_subset_size=30), rel=1e-6)


def test_the_published_width_is_read_as_clean_fid_reads_it(tmp_path: Path) -> None:
    from cleanfid.inception_torchscript import InceptionV3W

    own = Inception(path=str(networks.inception(tmp_path, width=2048)))
    pixels = images(2)
    theirs = InceptionV3W(str(tmp_path), download=False)(clean.resized(pixels))
    torch.testing.assert_close(own.features(pixels), theirs.detach())


def test_the_resize_is_clean_fids_own(folders: Any) -> None:
    from cleanfid.resize import build_resizer

    pixels = images(2)
    theirs = build_resizer("clean")(pixels[1].permute(1, 2, 0).numpy())
    np.testing.assert_array_equal(clean.resized(pixels)[1].permute(1, 2, 0).numpy(), theirs)


def test_the_inception_score_agrees_with_torchmetrics_on_the_same_classes(inception: Inception) -> None:
    from torchmetrics.image.inception import InceptionScore as Theirs

    pixels = images(24)

    class Logits(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return inception.probabilities(x).log()

    theirs = Theirs(feature=Logits(), splits=1)
    theirs.update(pixels)
    own = InceptionScore(extractor=inception)
    for batch in pixels.split(5):
        own.update(batch)
    assert own.compute() == pytest.approx(float(theirs.compute()[0]), rel=1e-5)
    assert own.fingerprint() == {"extractor": inception.fingerprint(), "splits": 1}


def test_dinov2_is_transformers_class_token_behind_the_last_norm(tmp_path: Path) -> None:
    from transformers import Dinov2Model

    path = networks.dinov2(tmp_path)
    pixels = images(2, shape=(1, 8, 8))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    prepared = clean.resized(pixels.expand(-1, 3, -1, -1), side=224) / 255
    prepared = (prepared - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        expected = Dinov2Model.from_pretrained(path).eval()(prepared).pooler_output
    torch.testing.assert_close(Dinov2(model="unused", path=str(path)).features(pixels), expected)


def test_the_clip_score_is_open_clips_cosine_by_hand(tmp_path: Path) -> None:
    import open_clip
    from PIL import Image

    path = networks.clip(tmp_path)
    network, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{path}")
    pixels, prompts = images(3), ("a cat", "a dog", "a boat")
    seen = torch.stack([preprocess(Image.fromarray(image.permute(1, 2, 0).numpy())) for image in pixels])
    with torch.no_grad():
        left = torch.nn.functional.normalize(network.eval().encode_image(seen), dim=-1)
        right = torch.nn.functional.normalize(network.encode_text(open_clip.tokenize(list(prompts))), dim=-1)
    by_hand = (100 * (left * right).sum(-1).clamp(min=0)).mean()
    metric = ClipScore(model="unused", pretrained="unused", path=str(path))
    metric.check(prompts, (3, 20, 20))
    metric.update(pixels, None, prompts)
    assert metric.compute() == pytest.approx(float(by_hand), rel=1e-5)


def test_lpips_is_torchmetrics_own_with_the_same_backbone(tmp_path: Path) -> None:
    from torchmetrics.functional.image.lpips import _LPIPS

    file = networks.backbone(tmp_path, "squeeze")
    left, right = images(4, 1, (3, 40, 40)), images(4, 2, (3, 40, 40))
    torch.manual_seed(3)
    theirs = _LPIPS(net="squeeze", pnet_rand=True)
    with torch.no_grad():
        expected = theirs(left / 127.5 - 1, right / 127.5 - 1).mean()
    metric = PerceptualDistance(backbone="squeeze", path=str(file))
    metric.update(left, right)
    assert metric.compute() == pytest.approx(float(expected), rel=1e-5)
    metric.reset()
    metric.update(left, left)
    assert metric.compute() == 0


def offline(*_: Any, **__: Any) -> Any:
    raise urllib.error.URLError("no route")


def test_weights_come_from_torchs_cache_and_are_fetched_into_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "origin.bin").write_bytes(b"weights")
    file = WeightsFile("some.bin", (tmp_path / "origin.bin").as_uri())
    assert file.locate(None).read_bytes() == b"weights"
    monkeypatch.setattr("urllib.request.urlopen", offline)
    assert file.locate(None) == tmp_path / "hub" / "checkpoints" / "some.bin"
    wrong = WeightsFile("other.bin", "https://nowhere", "00000000")
    with pytest.raises(RequestError, match=r"other\.bin is neither in .* nor .*https://nowhere .*no route.*path=…"):
        wrong.locate(None)
    assert [entry.name for entry in file.cached.parent.iterdir()] == ["some.bin"]


def test_missing_weights_name_the_file_its_origin_and_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setattr(clean, "inception_file", lambda: None)
    with pytest.raises(RequestError, match=f"inception-2015-12-05.pt is neither .*{INCEPTION.origin}.*path=…"):
        Inception(path=None).check((3, 32, 32))
    with pytest.raises(RequestError, match=r"alexnet-owt-7be5be79\.pth is neither"):
        PerceptualDistance(backbone="alex", path=None).check(None, (3, 32, 32))
    with pytest.raises(RequestError, match=r"facebook/nothing .*https://huggingface\.co/facebook/nothing.*path=…"):
        Dinov2(model="facebook/nothing", path=None).check((3, 32, 32))


def test_files_that_are_something_else_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"no network")
    with pytest.raises(RequestError, match="no TorchScript file"):
        Inception(path=str(tmp_path / "x.pt")).check((3, 8, 8))
    with pytest.raises(RequestError, match=r"config\.json"):
        Dinov2(model="unused", path=str(tmp_path)).check((3, 8, 8))
    with pytest.raises(RequestError, match=r"open_clip_config\.json"):
        ClipScore(model="unused", pretrained="unused", path=str(tmp_path)).check(("a",), (3, 8, 8))
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(RequestError, match=r"open_clip_model\.safetensors"):
        ClipScore(model="unused", pretrained="unused", path=str(tmp_path)).check(("a",), (3, 8, 8))
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "y.pth")
    with pytest.raises(RequestError, match="torchvision's alex weights"):
        PerceptualDistance(backbone="alex", path=str(tmp_path / "y.pth")).check(None, (3, 8, 8))


def test_published_statistics_are_read_from_a_file_and_belong_to_inception(
    inception: Inception, tmp_path: Path
) -> None:
    rows = inception.features(images(30, 2)).double().numpy()
    np.savez(tmp_path / "fid.npz", mu=rows.mean(0), sigma=np.cov(rows, rowvar=False))
    published = PublishedStatistics(name="mine", resolution=20, split="custom", path=str(tmp_path / "fid.npz"))
    made = [FrechetDistance(extractor=inception, reference=one) for one in (published, reference(30, 2))]
    for metric in made:
        metric.check(None, (3, 20, 20))
        metric.update(images(40, 1))
    assert made[0].compute() == pytest.approx(made[1].compute(), rel=1e-9)
    with pytest.raises(RequestError, match=r"feats is not"):
        published.sample(inception, 10, 0)
    with pytest.raises(RequestError, match="resolution=20: the model draws images of 3x32x32"):
        published.check(inception, (3, 32, 32))
    with pytest.raises(RequestError, match="inception is accepted"):
        published.check(Dinov2(model="unused", path=None), (3, 20, 20))


def test_reference_statistics_are_kept_under_what_decides_them(inception: Inception, tmp_path: Path) -> None:
    first, again, other = reference(30, 2), reference(30, 2), reference(30, 3)
    for one in (first, again, other):
        one.folder = tmp_path
    moments = first.moments(inception)
    again.data.train = None  # type: ignore[attr-defined] - the images are not looked at again
    again.__dict__["_fingerprint"] = first.fingerprint()
    np.testing.assert_array_equal(again.moments(inception).covariance, moments.covariance)
    other.moments(inception)
    assert len(list(tmp_path.glob("*.npz"))) == 2


def test_one_process_and_four_make_the_same_moments(inception: Inception) -> None:
    pixels = images(40, 5)
    whole = Moments.of(inception.features(pixels).numpy())
    first, *rest = (Moments.of(inception.features(part).numpy()) for part in pixels.chunk(4))
    for part in rest:
        first = first.merge(part)
    np.testing.assert_allclose(first.mean, whole.mean, rtol=1e-10)
    np.testing.assert_allclose(first.scatter, whole.scatter, rtol=1e-10, atol=1e-10 * abs(whole.scatter).max())


@pytest.mark.parametrize(("path", "source", "weights"), [(None, "ViT-B-32", "openai"), ("own", "local-dir:", None)])
def test_clip_is_open_clips_by_name_or_what_lies_in_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str | None, source: str, weights: str | None
) -> None:
    import open_clip

    asked: list[tuple[str, Any]] = []

    def create(name: str, *, pretrained: str | None, require_pretrained: bool) -> torch.nn.Module:
        asked.append((name, pretrained))
        assert require_pretrained
        raise RuntimeError("nothing of that kind")

    monkeypatch.setattr(open_clip, "create_model", create)
    monkeypatch.setattr(ClipScore, "_check_folder", lambda *_: None)
    metric = ClipScore(model="ViT-B-32", pretrained="openai", path=path and str(tmp_path / path))
    told = "no network of open_clip" if path else "ViT-B-32 with the weights 'openai' is neither in"
    with pytest.raises(RequestError, match=told):
        _ = metric.network
    ((name, pretrained),) = asked
    assert name.startswith(source)
    assert pretrained == weights
