"""The four losses of BatchNorm's statistics (T7 to T11 of data-free-practice.md)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import datafree
from parediff.data.digits import split_digits
from parediff.errors import RequestError
from parediff.models.classifiers.networks import CifarResNet, as_images
from parediff.models.classifiers.pretrained import load_classifier
from parediff.models.classifiers.probes import look, norm_inputs, require_norms
from parediff.models.classifiers.statistics import (
    deviation_loss,
    gaussian_divergence,
    input_loss,
    per_image_loss,
    variance_loss,
)

EVERY = [variance_loss, per_image_loss, deviation_loss, lambda seen: gaussian_divergence(seen).sum()]


def norm(mean: float, variance: float) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(1).eval()
    layer.running_mean.fill_(mean)  # type: ignore[union-attr]
    layer.running_var.fill_(variance)  # type: ignore[union-attr]
    return layer


def values(mean: float, variance: float) -> Tensor:
    """[2, 1, 1, 2] with exactly this mean and biased variance."""
    root = math.sqrt(variance)
    return torch.tensor([[[[mean - root, mean + root]]], [[[mean + root, mean - root]]]])


@pytest.mark.parametrize(
    ("mean", "variance", "expected"),
    [(0.0, 1.0, 0.0), (1.0, 1.0, 0.5), (0.0, 2.0, 0.15343), (0.0, 0.5, 0.09657)],
)
def test_t7_the_gaussian_divergence_in_closed_form(mean: float, variance: float, expected: float) -> None:
    found = float(gaussian_divergence([(norm(0.0, 1.0), values(mean, variance))]).sum())
    assert found == pytest.approx(expected, abs=1e-5)


def test_variance_and_deviation_losses_in_closed_form() -> None:
    seen = [(norm(1.0, 4.0), values(3.0, 2.25))]
    assert float(variance_loss(seen)) == pytest.approx(2.0**2 + 1.75**2, rel=1e-5)
    unbiased = 2.25 * 4 / 3
    expected = 2.0**2 + (math.sqrt(unbiased + 1e-6) - math.sqrt(4 + 1e-6)) ** 2
    assert float(deviation_loss(seen)) == pytest.approx(expected, rel=1e-5)


def test_t8_losses_vanish_where_the_statistics_are_those_of_the_batch() -> None:
    net, images = datafree.network(), datafree.blobs(64)
    with norm_inputs(net) as seen:
        net(images)
    for layer, x in seen:  # each norm's input stays as it is: what is overwritten is only compared with
        flat = x.transpose(0, 1).flatten(1)
        layer.running_mean.copy_(flat.mean(1))  # type: ignore[union-attr]
        layer.running_var.copy_(flat.var(1, unbiased=False))  # type: ignore[union-attr]
    assert float(variance_loss(seen)) <= 1e-6
    assert float(gaussian_divergence(seen).sum()) <= 1e-5
    for layer, x in seen:
        layer.running_var.copy_(x.transpose(0, 1).flatten(1).var(1))  # type: ignore[union-attr]
    assert float(deviation_loss(seen)) <= 1e-6


def test_noise_is_farther_from_the_statistics_than_the_images_they_came_from() -> None:
    """T9 on the digits classifier that ships."""
    net = load_classifier("assets://classifier_digits")
    images = split_digits(0.2, 0)[0][0][:128]
    near, far = (look(net, batch).norm_inputs for batch in (images, torch.randn(128, 1, 8, 8)))
    assert float(variance_loss(far)) > 5 * float(variance_loss(near))
    assert float(gaussian_divergence(far).sum()) > 5 * float(gaussian_divergence(near).sum())


def test_t10_each_image_alone_differs_from_all_together_unless_they_are_alike() -> None:
    net, images = datafree.network(), datafree.blobs(4)
    seen = look(net, images).norm_inputs
    alike = look(net, images[:1].expand(4, -1, -1, -1)).norm_inputs
    pooled = [sum_of(deviation, seen) for deviation in (per_image_loss, _summed_deviation)]
    assert abs(pooled[0] - pooled[1]) > 1e-3
    same = [sum_of(deviation, alike) for deviation in (per_image_loss, _summed_deviation)]
    assert same[0] == pytest.approx(same[1], rel=0.05)  # unbiased over one image and over four


def _summed_deviation(seen: list) -> Tensor:
    """V3 with V2's sum over channels."""
    return sum(deviation_loss([one]) * one[0].num_features for one in seen)  # type: ignore[return-value]


def sum_of(loss: object, seen: list) -> float:
    return float(loss(seen))  # type: ignore[operator]


def test_t11_no_gradient_reaches_the_classifier_and_no_hook_stays() -> None:
    net = datafree.network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    images = datafree.blobs(8).requires_grad_(True)
    for loss in EVERY:
        (gradient,) = torch.autograd.grad(loss(look(net, images).norm_inputs), images)
        assert bool(gradient.abs().sum() > 0)
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert datafree.hooks(net) == 0


def test_hooks_go_when_the_pass_fails() -> None:
    net = datafree.network()
    with pytest.raises(RuntimeError):
        look(net, torch.zeros(2, 5, 8, 8))
    assert datafree.hooks(net) == 0


@pytest.mark.parametrize("loss", EVERY)
def test_dead_channels_are_left_out_and_nothing_overflows(loss: object) -> None:
    net = datafree.network()
    seen = look(net, datafree.blobs(8)).norm_inputs
    seen[0][0].running_var[0] = 1e-20  # type: ignore[index]
    seen[0][0].running_mean[0] = 1e6  # type: ignore[index]
    assert 0 <= float(loss(seen)) < 1e4  # type: ignore[operator]


def test_half_precision_is_summed_in_single() -> None:
    big = torch.full((2, 1, 2, 2), 300.0, dtype=torch.float16)
    assert bool(torch.isfinite(variance_loss([(norm(0.0, 1.0), big)])))


def test_a_model_without_batchnorm_is_refused_and_the_alternatives_are_named() -> None:
    with pytest.raises(RequestError, match=r"calibration=genie: .*noise and real_data") as caught:
        require_norms(nn.Sequential(nn.Linear(2, 2)), "genie")
    assert "\n" not in str(caught.value)


def test_images_of_the_normalised_space_are_normalised_back() -> None:
    net, x = CifarResNet(depth=8, classes=10), torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(net.normalise(as_images(net, x)), x)
    assert float(input_loss((x - x.mean((2, 3), keepdim=True)) / x.std((2, 3), keepdim=True))) < 1e-6
    assert as_images(datafree.network(), x) is x
