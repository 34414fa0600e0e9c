"""Classification networks and their weights: the published shapes, and nothing executed from a file."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from parediff.errors import RequestError
from parediff.models.classifiers.build import build
from parediff.models.classifiers.networks import CifarResNet, ConvNet, Shortcut, TorchvisionNet
from parediff.models.classifiers.pretrained import ClassifierArchitecture, PretrainedClassifier, load_classifier
from parediff.models.weights import load_weights

SHARED = Path(__file__).parents[2] / "shared"
CIFAR10 = Path(os.environ.get("PAREDIFF_CIFAR10", SHARED / "data" / "cifar10"))
RESNET20 = SHARED / "weights" / "cifar10-resnet20.safetensors"
TINY: dict[str, Any] = {"in_channels": 1, "channels": (4, 8), "strides": (1, 2), "classes": 3}


def pretrained(**changes: Any) -> PretrainedClassifier:
    options: dict[str, Any] = {
        "name": "tiny",
        "path": None,
        "checkpoint": None,
        "random_weights": False,
        "network": "ConvNet",
        "arguments": TINY,
    }
    return PretrainedClassifier(**(options | changes))


class Trap:
    """Unpickling it creates a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize(("depth", "parameters"), [(20, 269_722), (56, 853_018)])
def test_cifar_resnets_have_the_published_size(depth: int, parameters: int) -> None:
    assert sum(p.numel() for p in CifarResNet(depth=depth, classes=10).parameters()) == parameters


def test_a_depth_that_makes_no_resnet_is_named() -> None:
    with pytest.raises(RequestError, match=r"arguments\.depth=21: "):
        build("CifarResNet", {"depth": 21, "classes": 10})


def test_the_shortcut_keeps_every_second_pixel_between_zero_channels() -> None:
    x = torch.arange(32.0).reshape(1, 2, 4, 4)
    y = Shortcut(2)(x)
    assert y.shape == (1, 4, 2, 2)
    assert torch.equal(y[:, 1:3], x[:, :, ::2, ::2])
    assert not y[:, [0, 3]].any()


@pytest.mark.parametrize(("name", "parameters"), [("resnet18", 11_689_512), ("mobilenet_v2", 3_504_872)])
def test_torchvision_networks_load_files_with_their_own_keys(tmp_path: Path, name: str, parameters: int) -> None:
    network = TorchvisionNet(architecture=name, classes=1000)
    assert sum(p.numel() for p in network.parameters()) == parameters
    save_file(network.network.state_dict(), tmp_path / "weights.safetensors")
    arguments = {"architecture": name, "classes": 1000}
    asked = pretrained(network="TorchvisionNet", arguments=arguments, checkpoint=str(tmp_path / "weights.safetensors"))
    loaded = asked.network_with_weights()
    for (key, one), other in zip(network.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(one, other), key


def test_channels_last_change_where_values_lie_and_nothing_else() -> None:
    made = build("CifarResNet", {"depth": 20, "classes": 10}).eval()
    assert made.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    plain = copy.deepcopy(made).to(memory_format=torch.contiguous_format)
    assert not plain.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.testing.assert_close(made(images), plain(images))


def test_features_are_what_the_last_layer_reads() -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 1, 8, 8)
    network = ConvNet(**TINY).eval()
    assert network.features(images).shape == (2, 8)
    torch.testing.assert_close(network.linear(network.features(images)), network(images))


def test_what_a_training_saves_is_what_is_loaded(tmp_path: Path) -> None:
    architecture = ClassifierArchitecture(network="ConvNet", arguments=TINY, seed=3)
    architecture.save(tmp_path, "digits")
    images = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(load_classifier(tmp_path)(images), architecture.network.eval()(images))
    assert not load_classifier(tmp_path).training


def test_the_seed_decides_the_weights_and_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    one, same, other = (
        ClassifierArchitecture(network="ConvNet", arguments=TINY, seed=seed).network.linear.weight for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(state, torch.get_rng_state())


def test_data_that_does_not_fit_is_refused_before_training() -> None:
    architecture = ClassifierArchitecture(network="ConvNet", arguments=TINY, seed=0)
    architecture.check((1, 8, 8), 3)
    with pytest.raises(RequestError, match="classes=3: 10, as the data has"):
        architecture.check((1, 8, 8), 10)
    with pytest.raises(RequestError, match=r"images of shape \(3, 8, 8\)"):
        architecture.check((3, 8, 8), 3)


def test_untrained_weights_must_be_asked_for() -> None:
    with pytest.raises(RequestError, match=r"^checkpoint=null: .*random_weights=true"):
        pretrained()
    assert pretrained(random_weights=True).network_with_weights().training is False


@pytest.mark.parametrize(("key", "value"), [("checkpoint", "nowhere.safetensors"), ("path", "nowhere")])
def test_missing_weights_are_named_at_once(key: str, value: str) -> None:
    with pytest.raises(RequestError, match=f"^{key}={value}: "):
        pretrained(**{key: value})


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "cut.safetensors"
    save_file(ConvNet(**TINY).state_dict(), file)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(RequestError, match=r"^checkpoint=.*cut\.safetensors: not a whole safetensors file") as caught:
        load_weights(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".pt", ".pth", ".ckpt"])
def test_a_pickle_posing_as_weights_is_refused_and_not_executed(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"evil{suffix}"
    torch.save({"state_dict": {"weight": Trap(tmp_path / "executed")}}, file)
    with pytest.raises(RequestError, match=r"^checkpoint=.*evil"):
        load_weights(file)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [b"", b"not weights", b"\x80\x04N."])
def test_rubbish_is_refused(tmp_path: Path, content: bytes) -> None:
    for name in ("rubbish.pt", "rubbish.safetensors", "rubbish.txt"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RequestError, match=f"^checkpoint=.*{name}: "):
            load_weights(tmp_path / name)


def test_a_torch_file_of_tensors_is_weights(tmp_path: Path) -> None:
    weights = nn.Linear(2, 2).state_dict()
    for name, content in (("plain.pt", weights), ("nested.ckpt", {"state_dict": weights, "epoch": 3})):
        torch.save(content, tmp_path / name)
        assert torch.equal(load_weights(tmp_path / name)["weight"], weights["weight"])


def test_weights_of_another_network_are_named_in_one_line(tmp_path: Path) -> None:
    save_file(nn.Linear(2, 2).state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(RequestError, match=r"other\.safetensors: weights of ConvNet") as caught:
        pretrained(checkpoint=str(tmp_path / "other.safetensors")).load("cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.skipif(not (CIFAR10.is_dir() and RESNET20.is_file()), reason="CIFAR-10 or its ResNet-20 is not here")
def test_resnet20_answers_as_published_for_these_files() -> None:
    from parediff.data.hub import HubImages

    data = HubImages(
        path=str(CIFAR10), image_column="img", label_column="label", train_split="train", held_out="test", split_seed=0,
        image_size=None, channels=3, crop="centre", batch_size=250, seed=0, workers=0, flip=False,
    )  # fmt: skip
    asked = pretrained(network="CifarResNet", arguments={"depth": 20, "classes": 10}, checkpoint=str(RESNET20))
    network, hits = asked.network_with_weights(), 0
    with torch.no_grad():
        for images, labels in data.val_dataloader():
            hits += int((network(images).argmax(1) == labels).sum())
    assert hits == 8103
