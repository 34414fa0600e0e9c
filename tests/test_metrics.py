from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from parediff.errors import RequestError
from parediff.metrics.accuracy import Accuracy
from parediff.metrics.base import Metric, jackknife
from parediff.metrics.extractors import Classifier, Extractor
from parediff.metrics.frechet import FrechetDistance
from parediff.metrics.gaussians import Anchor
from parediff.metrics.kernel import KernelDistance
from parediff.metrics.psnr import PeakSignalToNoise
from parediff.metrics.reference import DataReference
from parediff.metrics.ssim import StructuralSimilarity
from parediff.metrics.statistics import Mean, Moments, Reservoir


@dataclass(eq=False)
class Brightness(Metric[Mean]):
    """The mean grey value: a metric whose every number can be worked out by hand."""

    section: ClassVar[Literal["quality", "fidelity"]] = "quality"
    better: ClassVar[Literal["lower", "higher"]] = "higher"

    def measure(self, batch: Tensor, reference: Tensor | None, conditions: Any) -> Mean:
        return Mean.of(batch.double().mean((1, 2, 3)).numpy())

    def value(self, statistic: Mean) -> float | None:
        return statistic.value

    def fingerprint(self) -> dict[str, Any]:
        return {}


class Projection(Extractor):
    """A fixed random network on 1x8x8 images, 12 features."""

    name = "projection"

    def __init__(self) -> None:
        self.weight = torch.randn(64, 12, generator=torch.Generator().manual_seed(0)) / 8

    def features(self, images: Tensor) -> Tensor:
        return torch.tanh((images.flatten(1).float() / 127.5 - 1) @ self.weight)

    def fingerprint(self) -> dict[str, Any]:
        return {"projection": 12}


class Noise:
    """A data module of random images."""

    name = "noise"
    image_shape = (1, 8, 8)

    def __init__(self, count: int) -> None:
        self.train = TensorDataset(to_float(pictures(count, seed=7)), torch.zeros(count))
        self.held_out = TensorDataset(to_float(pictures(20, seed=8)), torch.zeros(20))


def pictures(count: int, seed: int, shape: tuple[int, ...] = (1, 8, 8)) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, *shape), generator=generator, dtype=torch.uint8)


def to_float(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


def grey(*levels: int) -> Tensor:
    return torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 8, 8).contiguous()


def reference(count: int = 60) -> DataReference:
    return DataReference(data=Noise(count), split="train", batch_size=16, count=None, foreign=False)


def frechet() -> FrechetDistance:
    return FrechetDistance(extractor=Projection(), reference=reference())


def kernel(**changes: Any) -> KernelDistance:
    settings = {"subsets": 5, "subset_size": 50, "capacity": 200, "seed": 0, **changes}
    return KernelDistance(extractor=Projection(), reference=reference(), **settings)


def fill(metric: Metric[Any], images: Tensor, blocks: int, batch: int) -> Metric[Any]:
    for block in images.chunk(blocks):
        for part in block.split(batch):
            metric.update(part)
        metric.next_block()
    return metric


def test_the_jackknife_of_a_mean_is_the_plain_standard_error() -> None:
    metric = fill(Brightness(), grey(10, 20, 30, 60), blocks=4, batch=1)
    assert metric.compute() == 30
    by_hand = math.sqrt((20**2 + 10**2 + 0 + 30**2) / 3) / math.sqrt(4)
    assert metric.stderr() == pytest.approx(by_hand)


def test_one_block_has_no_standard_error_and_no_image_no_value() -> None:
    metric = Brightness()
    assert metric.compute() is None
    assert metric.stderr() is None
    metric.update(grey(1, 2))
    assert metric.compute() == 1.5
    assert metric.stderr() is None


def test_closing_a_block_twice_does_not_make_an_empty_one() -> None:
    metric = Brightness()
    for level in (10, 20):
        metric.update(grey(level))
        metric.next_block()
        metric.next_block()
    assert metric.stderr() == pytest.approx(5)


def test_a_value_undefined_without_some_block_has_no_standard_error() -> None:
    assert jackknife([1, 2], lambda blocks: None if 1 in blocks else 2.0) is None


def test_reset_forgets_everything() -> None:
    metric = fill(Brightness(), grey(10, 20), blocks=2, batch=1)
    metric.reset()
    assert metric.compute() is None
    metric.update(grey(7))
    assert metric.compute() == 7


def test_images_that_are_not_uint8_are_refused() -> None:
    with pytest.raises(TypeError, match="uint8 NCHW"):
        Brightness().update(torch.zeros(2, 1, 8, 8))


def test_streamed_moments_equal_those_of_all_features_at_once() -> None:
    features = np.random.default_rng(0).normal(1e4, 1, (101, 5))
    parts = [Moments.of(part) for part in np.array_split(features, 7)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    np.testing.assert_allclose(merged.mean, features.mean(0))
    np.testing.assert_allclose(merged.covariance, np.cov(features, rowvar=False), rtol=1e-9)


def test_the_frechet_distance_is_clean_fids_own_on_the_concatenated_features() -> None:
    from cleanfid.fid import frechet_distance

    images = pictures(50, seed=1)
    metric = fill(frechet(), images, blocks=3, batch=4)
    extractor = Projection()
    ours, real = extractor.features(images).double().numpy(), extractor.features(pictures(60, seed=7)).double().numpy()
    expected = frechet_distance(ours.mean(0), np.cov(ours, rowvar=False), real.mean(0), np.cov(real, rowvar=False))
    assert metric.compute() == pytest.approx(expected, rel=1e-6)


def test_the_frechet_distance_does_not_depend_on_batches_and_keeps_no_images() -> None:
    images = pictures(48, seed=2)
    small, large = fill(frechet(), images, blocks=2, batch=3), fill(frechet(), images, blocks=2, batch=24)
    assert small.compute() == pytest.approx(large.compute(), rel=1e-6)
    assert small.stderr() == pytest.approx(large.stderr(), rel=1e-4)
    assert [block.scatter.shape for block in small._blocks] == [(12, 12)] * 2


def test_gaussians_of_known_moments_have_the_distance_worked_out_by_hand() -> None:
    # |m|^2 = 9 + 16; with C1 = 4 I and C2 = I the trace term is 2 (4 + 1 - 2 * 2) = 2
    left = Moments(count=11, mean=np.zeros(2), scatter=40 * np.eye(2))
    right = Moments(count=11, mean=np.array([3.0, 4.0]), scatter=10 * np.eye(2))
    assert Anchor(right).distance(left) == pytest.approx(27)


def test_the_reference_set_itself_has_no_frechet_distance_to_it() -> None:
    metric = frechet()
    metric.update(pictures(60, seed=7))
    assert metric.compute() == pytest.approx(0, abs=1e-6)


def test_a_single_image_has_no_distance() -> None:
    for metric in (frechet(), kernel()):
        metric.update(pictures(1, seed=1))
        assert metric.compute() is None


def test_the_kernel_distance_is_clean_fids_own_and_leaves_numpys_state_alone() -> None:
    from cleanfid.fid import kernel_distance

    images, extractor = pictures(60, seed=3), Projection()
    metric = fill(kernel(subset_size=60), images, blocks=2, batch=8)
    before = np.random.get_state()[1].copy()
    value = metric.compute()
    assert (np.random.get_state()[1] == before).all()
    ours, real = extractor.features(images).double().numpy(), extractor.features(pictures(60, seed=7)).double().numpy()
    assert value == pytest.approx(kernel_distance(ours, real, num_subsets=1, max_subset_size=60), rel=1e-6)
    assert metric.compute() == value


def test_the_kernel_distance_tells_real_images_from_dark_ones() -> None:
    alike, dark = kernel(), kernel()
    alike.update(pictures(60, seed=4))
    dark.update(pictures(60, seed=4) // 4)
    assert abs(alike.compute()) < dark.compute() / 10


def test_the_kernel_distance_keeps_at_most_its_capacity_whatever_the_batches() -> None:
    images = pictures(150, seed=5)
    small = fill(kernel(capacity=50), images, blocks=1, batch=7)
    large = fill(kernel(capacity=50), images, blocks=1, batch=150)
    np.testing.assert_array_equal(np.sort(small._blocks[0].features, 0), np.sort(large._blocks[0].features, 0))
    assert len(small._blocks[0].features) == 50


def test_a_reservoir_is_a_uniform_sample() -> None:
    random, counts = np.random.default_rng(0), np.zeros(20)
    for _ in range(400):
        left = Reservoir.of(np.arange(5.0)[:, None], random.random(5), capacity=4)
        right = Reservoir.of(np.arange(5.0, 20)[:, None], random.random(15), capacity=4)
        counts[left.merge(right).features[:, 0].astype(int)] += 1
    assert counts.sum() == 1600
    assert np.abs(counts - 80).max() < 4 * math.sqrt(80)


def test_the_error_bars_of_distances_agree_with_repetitions() -> None:
    for make in (frechet, kernel):
        runs = [fill(make(), pictures(80, seed=100 + run), blocks=8, batch=10) for run in range(30)]
        spread = float(np.std([metric.compute() for metric in runs], ddof=1))
        claimed = float(np.mean([metric.stderr() for metric in runs]))
        assert 0.5 < claimed / spread < 2


def test_the_fingerprint_names_the_images_of_the_reference_set() -> None:
    own, other = reference().fingerprint(), reference(count=61).fingerprint()
    assert (own["data"], own["split"], own["count"]) == ("noise", "train", 60)
    assert own["images"] != other["images"]
    assert frechet().fingerprint() == frechet().fingerprint()


def test_reference_images_are_rounded_to_the_levels_they_came_from() -> None:
    assert torch.equal(torch.cat(list(reference().batches())), pictures(60, seed=7))


@pytest.mark.parametrize(("key", "value"), [("subsets", 0), ("subset_size", 1), ("capacity", 10), ("seed", -1)])
def test_settings_of_the_kernel_distance_out_of_range_are_refused(key: str, value: int) -> None:
    with pytest.raises(RequestError, match=key):
        kernel(**{key: value})


def test_psnr_is_the_mean_over_images_worked_out_by_hand() -> None:
    metric = PeakSignalToNoise()
    metric.update(grey(10, 20), grey(11, 30))
    by_hand = (10 * math.log10(255**2 / 1) + 10 * math.log10(255**2 / 100)) / 2
    assert metric.compute() == pytest.approx(by_hand)


def test_psnr_of_identical_images_is_not_a_number_and_ssim_is_one() -> None:
    images = pictures(4, seed=1)
    ratio, similarity = PeakSignalToNoise(), StructuralSimilarity(sigma=None)
    for metric in (ratio, similarity):
        metric.update(images, images)
        metric.next_block()
        metric.update(images, images)
    assert ratio.compute() is None
    assert ratio.stderr() is None
    assert similarity.compute() == pytest.approx(1)


def test_one_identical_image_does_not_make_the_mean_psnr_infinite() -> None:
    metric = PeakSignalToNoise()
    metric.update(grey(10, 20), grey(10, 21))
    by_hand = (10 * math.log10(255**2 * 64) + 10 * math.log10(255**2)) / 2
    assert metric.compute() == pytest.approx(by_hand)


def test_small_images_get_a_small_window_and_large_ones_the_published_one() -> None:
    from torchmetrics.functional.image import structural_similarity_index_measure

    for side, sigma in ((8, 0.5), (16, 1.0), (32, 1.5)):
        images, other = pictures(3, 1, (3, side, side)), pictures(3, 2, (3, side, side))
        metric = StructuralSimilarity(sigma=None)
        metric.update(images, other)
        expected = structural_similarity_index_measure(images.float(), other.float(), sigma=sigma, data_range=255.0)
        assert metric.compute() == pytest.approx(float(expected), abs=1e-6)


def test_more_noise_is_less_similar() -> None:
    images = pictures(6, seed=1) // 2 + 64
    values = []
    for strength in (8, 64):
        noise = (pictures(6, seed=2).int() - 128) * strength // 256
        noisy = (images.int() + noise).clamp(0, 255).to(torch.uint8)
        similarity, ratio = StructuralSimilarity(sigma=None), PeakSignalToNoise()
        similarity.update(noisy, images)
        ratio.update(noisy, images)
        values.append((similarity.compute(), ratio.compute()))
    assert values[0] > values[1]
    assert values[0][1] > values[1][1]


def test_a_window_wider_than_the_image_is_refused_before_any_image() -> None:
    with pytest.raises(RequestError, match="sigma"):
        StructuralSimilarity(sigma=1.5).check(None, (1, 8, 8))
    with pytest.raises(RequestError, match="sigma"):
        StructuralSimilarity(sigma=0.0)


def test_fidelity_without_a_reference_or_with_another_shape_is_an_error() -> None:
    for metric in (PeakSignalToNoise(), StructuralSimilarity(sigma=None)):
        with pytest.raises(ValueError, match="none were given"):
            metric.update(grey(1))
        with pytest.raises(ValueError, match="do not pair up"):
            metric.update(grey(1, 2), grey(1))


class Ten(nn.Module):
    """Ten scores, highest for the class whose pixel is brightest."""

    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :10]

    def forward(self, images: Tensor) -> Tensor:
        return self.features(images)


@pytest.fixture
def classifier(tmp_path: Any) -> Classifier:
    (tmp_path / "config.json").write_text(json.dumps({"network": "Ten"}))
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    ten = Classifier(path=str(tmp_path))
    ten.__dict__["network"] = Ten()
    return ten


def lit(*classes: int) -> Tensor:
    images = torch.zeros(len(classes), 1, 8, 8, dtype=torch.uint8)
    images.flatten(1)[torch.arange(len(classes)), torch.tensor(classes)] = 255
    return images


def test_accuracy_is_the_share_of_images_that_show_what_was_asked_for(classifier: Classifier) -> None:
    metric = Accuracy(classifier=classifier, top=1)
    metric.update(lit(0, 1, 2, 3), None, (0, 1, 2, 9))
    assert metric.compute() == 0.75


def test_accuracy_among_ten_of_ten_classes_is_one(classifier: Classifier) -> None:
    metric = Accuracy(classifier=classifier, top=10)
    metric.update(lit(0, 1), None, (5, 6))
    assert metric.compute() == 1


@pytest.mark.parametrize("conditions", [None, (), ("a cat",), (True,)])
def test_accuracy_without_class_labels_is_a_wrong_request(classifier: Classifier, conditions: Any) -> None:
    with pytest.raises(RequestError, match="conditions"):
        Accuracy(classifier=classifier, top=1).check(conditions, (1, 8, 8))


def test_a_label_that_the_classifier_does_not_know_is_refused_before_any_image(classifier: Classifier) -> None:
    with pytest.raises(RequestError, match="conditions=10: labels 0 to 9"):
        Accuracy(classifier=classifier, top=1).check((3, 10), (1, 8, 8))


def test_a_folder_that_is_no_classifier_is_a_wrong_request(tmp_path: Any) -> None:
    with pytest.raises(RequestError, match=r"config\.json is missing"):
        Classifier(path=str(tmp_path))


def test_another_classifier_is_another_fingerprint(classifier: Classifier) -> None:
    before = classifier.fingerprint()
    save_file({"weight": torch.ones(1)}, classifier.folder / "model.safetensors")
    assert classifier.fingerprint() != before


def test_images_that_an_extractor_cannot_take_are_refused_before_any_is_made() -> None:
    with pytest.raises(RequestError, match="no images of 3x32x32"):
        Projection().check((3, 32, 32))
    frechet().check(None, (1, 8, 8))


def test_a_reference_set_of_another_size_is_refused_before_any_image_is_made() -> None:
    for metric in (frechet(), kernel()):
        with pytest.raises(RequestError, match="reference=noise: a set of images of 1x16x16 is accepted"):
            metric.check(None, (1, 16, 16))


def test_real_images_outside_the_range_are_refused() -> None:
    wide = Noise(4)
    wide.train = TensorDataset(torch.full((4, 1, 8, 8), 255.0), torch.zeros(4))
    with pytest.raises(RequestError, match=r"data=noise: images in \[-1, 1\] are accepted, these lie in 255 to 255"):
        DataReference(data=wide, split="train", batch_size=2, count=None, foreign=False).fingerprint()


def test_the_memory_of_a_stream_does_not_grow_with_its_images() -> None:
    import tracemalloc

    metric, batch, held = frechet(), pictures(500, seed=9), []
    metric.update(batch)
    tracemalloc.start()
    for count in range(1, 40):
        metric.update(batch)
        if count in (1, 39):  # 1,000 and 20,000 images
            held.append(tracemalloc.get_traced_memory())
    tracemalloc.stop()
    assert held[1][0] - held[0][0] < 50_000
    assert held[1][1] - held[0][1] < 500_000
