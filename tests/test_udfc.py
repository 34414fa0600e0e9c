"""UDFC's closed forms and the two methods made of them (T29 of data-free-practice.md)."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import datafree
from parediff.config.compose import Composer
from parediff.config.request import build
from parediff.correction.channels import Channels, Link, combination, drop, factors, links
from parediff.errors import RequestError
from parediff.models.classifiers.model import ClassifierModel
from parediff.models.classifiers.networks import CifarResNet, ConvNet
from parediff.pipeline.compress import compress, restore
from parediff.quantization.grid import Grid
from parediff.quantization.quantizer import Quantizer
from parediff.quantization.samples import Samples
from parediff.quantization.search import MinMax


def methods(asked: str, *settings: str) -> Any:
    """The methods that a request builds, by name."""
    overrides = ["model=classifier_digits", "tracker=none", "calibration=noise", f"method=[{asked}]", *settings]
    return build(Composer("config").compose(overrides)).methods


def compressed(chosen: Any, net: nn.Module) -> tuple[ClassifierModel, dict[str, Tensor]]:
    teacher = ClassifierModel(net, name="tiny")
    student = teacher.copy()
    calls = [student.call(datafree.blobs(16))]
    return student, compress(student, teacher, chosen, lambda _: calls, lambda *_: None)  # type: ignore[arg-type]


def channels(count: int, inputs: int) -> Channels:
    return Channels(torch.randn(count, inputs).double(), torch.randn(count).double())


def error(gone: Channels, kept: Channels, shares: Tensor, ridge: float, offset_weight: float) -> Tensor:
    """The objective of section 6.2 for every channel that is gone."""
    rows = (gone.rows - shares.T @ kept.rows).square().sum(1)
    offsets = (gone.offsets - shares.T @ kept.offsets).square()
    return rows + offset_weight * offsets + ridge * shares.square().sum(0)


def test_only_layers_that_one_layer_reads_behind_batchnorm_and_relu_are_linked() -> None:
    blocks = [f"layer{stage}.{index}" for stage in (1, 2, 3) for index in range(3)]
    expected = [Link(f"{block}.conv1", f"{block}.bn1", f"{block}.conv2") for block in blocks]
    assert links(CifarResNet(depth=20, classes=10)) == expected
    assert links(datafree.network()) == [
        Link("blocks.0.0", "blocks.0.1", "blocks.1.0"),
        Link("blocks.1.0", "blocks.1.1", "linear"),
    ]


def test_what_does_not_commute_with_a_factor_or_is_read_twice_is_not_linked() -> None:
    class Twice(nn.Module):
        def __init__(self, activation: nn.Module, groups: int, *, twice: bool) -> None:
            super().__init__()
            self.conv, self.bn, self.activation = nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), activation
            self.reader, self.twice = nn.Conv2d(4, 4, 1, groups=groups), twice

        def forward(self, x: Tensor) -> Tensor:
            h = self.activation(self.bn(self.conv(x)))
            return self.reader(h) + h if self.twice else self.reader(h)

    class Pooled(nn.Module):
        def __init__(self, *over: int) -> None:
            super().__init__()
            self.conv, self.bn, self.relu, self.linear = (
                nn.Conv2d(1, 4, 1),
                nn.BatchNorm2d(4),
                nn.ReLU(),
                nn.Linear(4, 2),
            )
            self.over = over

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(self.relu(self.bn(self.conv(x))).mean(self.over))

    assert all(len(links(Pooled(*over))) == 1 for over in ((2, 3), (-1, -2)))
    assert links(Pooled(1, 2)) == []
    assert len(links(Twice(nn.ReLU(), 1, twice=False))) == 1
    for other in (Twice(nn.ReLU6(), 1, twice=False), Twice(nn.ReLU(), 4, twice=False), Twice(nn.ReLU(), 1, twice=True)):
        assert links(other) == []


def test_t29_a_duplicated_channel_can_go_and_the_output_stays() -> None:
    torch.manual_seed(0)
    net = ConvNet(in_channels=3, channels=(6, 4), strides=(1, 1), classes=3).eval()
    conv, norm = net.blocks[0][0], net.blocks[0][1]
    with torch.no_grad():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_()
        norm.weight[5] *= -0.5  # negative gains are ordinary
        conv.weight[5] = -0.04 * conv.weight[2]  # the smallest channel is a positive multiple of another's
        gains = norm.weight / (norm.running_var + norm.eps).sqrt()
        ratio = gains[5] * -0.04 / gains[2]
        offset = norm.bias[2] - gains[2] * norm.running_mean[2]
        norm.bias[5] = ratio * offset + gains[5] * norm.running_mean[5]
        x = torch.randn(4, 3, 8, 8)
        before = net(x)
        drop(net, links(net)[0], 1, lambda kept, gone: combination(kept, gone, 0.0, 1.0))
        assert float(ratio) > 0
        assert net.blocks[0][0].weight.shape[0] == net.blocks[0][1].num_features == 5
        torch.testing.assert_close(net(x), before, rtol=1e-5, atol=1e-5)


def test_t29_sixteen_bits_need_no_repair() -> None:
    weight, norm = torch.randn(8, 4, 3, 3), nn.BatchNorm2d(8).requires_grad_(False)
    quantizer = Quantizer(Grid(16, "affine"), axis=0, channels=8)
    quantizer.take(Samples.of(weight, 0, groups=8), MinMax())
    exact, rounded = (Channels.of(w, None, norm) for w in (weight, quantizer(weight)))
    assert float((factors(exact, rounded, 0.01, 0.008) - 1).abs().max()) < 1e-4


def test_t29_a_repaired_channel_is_never_farther_than_an_unrepaired_one() -> None:
    kept, gone = channels(6, 9), channels(4, 9)
    shares = combination(kept, gone, 0.01, 0.008)
    assert float(shares.min()) >= 0
    nothing = error(gone, kept, torch.zeros_like(shares), 0.01, 0.008)
    assert bool((error(gone, kept, shares, 0.01, 0.008) <= nothing + 1e-12).all())
    exact, found = channels(6, 9), factors(channels(6, 9), channels(6, 9), 0.01, 0.008)
    rounded = Channels(0.7 * exact.rows + 0.2 * torch.randn(6, 9), exact.offsets)
    found = factors(exact, rounded, 0.0, 0.0)
    away = lambda s: (exact.rows - s[:, None] * rounded.rows).square().sum(1)  # noqa: E731
    assert bool((away(found) <= away(torch.ones(6))).all())
    assert bool((away(found) <= away(found * 1.01)).all())


def test_a_channel_without_weights_keeps_its_factor_of_one() -> None:
    nothing = Channels(torch.zeros(2, 3).double(), torch.zeros(2).double())
    assert factors(nothing, nothing, 0.0, 0.0).tolist() == [1.0, 1.0]


def test_dead_channels_give_finite_factors() -> None:
    net = datafree.network()
    with torch.no_grad():
        net.blocks[0][1].running_var[0] = 1e-20  # type: ignore[index,union-attr]
    chosen = methods("ptq,udfc", "methods.ptq.weight_bits=4", "methods.ptq.activation_bits=4")
    student, _ = compressed(chosen, net)
    assert all(torch.isfinite(p).all() for p in student.denoiser.parameters())


@pytest.mark.parametrize("asked", ["ptq,udfc", "udfc_pruning", "udfc_pruning,ptq,udfc"])
def test_the_methods_change_the_network_and_are_rebuilt_from_its_state(asked: str) -> None:
    settings = [f"methods.{name}.{key}" for name, key in SETTINGS if name in asked.split(",")]
    chosen, net, images = methods(asked, *settings), datafree.network(), datafree.blobs(8)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    student, state = compressed(chosen, net)
    out = student.denoiser(images)
    assert not torch.equal(out, net(images))
    rebuilt = ClassifierModel(net, name="tiny").copy()
    restore(rebuilt, chosen, state)  # type: ignore[arg-type]
    assert torch.equal(rebuilt.denoiser(images), out)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert datafree.hooks(student.denoiser) == 0
    for method in chosen.values():
        proof = method.fired(student)
        assert proof
        json.dumps(proof, allow_nan=False)


SETTINGS = [("ptq", "weight_bits=3"), ("ptq", "activation_bits=8"), ("udfc_pruning", "share=0.5")]


def test_pruning_says_what_is_left_and_costs_less() -> None:
    chosen, net = methods("udfc_pruning", "methods.udfc_pruning.share=0.5"), datafree.network()
    student, _ = compressed(chosen, net)
    proof = chosen["udfc_pruning"].fired(student)
    assert proof["layers"] == {"blocks.0.0": {"removed": 2, "kept": 2}, "blocks.1.0": {"removed": 4, "kept": 4}}
    sizes = [sum(p.numel() for p in one.parameters()) for one in (student.denoiser, net)]
    assert sizes[0] < 0.5 * sizes[1]


def test_repaired_pruning_is_nearer_to_the_network_than_pruning_alone() -> None:
    torch.manual_seed(0)
    net, images = datafree.network(), datafree.blobs(64)
    away = {}
    for name, weigh in (
        ("repaired", lambda kept, gone: combination(kept, gone, 0.01, 0.008)),
        ("dropped", lambda kept, gone: torch.zeros(len(kept.rows), len(gone.rows))),
    ):
        twin = ClassifierModel(net, name="tiny").copy().denoiser
        drop(twin, links(twin)[1], 4, weigh)
        away[name] = float((twin(images) - net(images)).square().mean())
    assert away["repaired"] < away["dropped"]


@pytest.mark.parametrize(
    ("asked", "settings", "message"),
    [
        ("udfc", [], r"method=\[udfc\]: udfc behind what it repairs, as \[ptq,udfc\]"),
        ("udfc_pruning", ["methods.udfc_pruning.share=1.0"], r"share=1\.0: a number between 0 and 1"),
        ("udfc_pruning", ["methods.udfc_pruning.ridge=0"], r"ridge=0"),
    ],
)
def test_a_wrong_request_names_its_key(asked: str, settings: list[str], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        methods(asked, *settings)


def test_networks_without_links_and_a_wrong_order_are_refused() -> None:
    model = ClassifierModel(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3)), name="plain")
    with pytest.raises(RequestError, match="a network of layers with BatchNorm and ReLU"):
        methods("udfc_pruning")["udfc_pruning"].prepare(model)
    chosen = methods("ptq,udfc_pruning")
    student = ClassifierModel(datafree.network(), name="tiny").copy()
    chosen["ptq"].prepare(student)
    with pytest.raises(RequestError, match=r"\[udfc_pruning,ptq\]"):
        chosen["udfc_pruning"].prepare(student)
