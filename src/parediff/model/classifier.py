"""Image classifiers: the small one of the digits, CIFAR's ResNets, torchvision's networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from parediff.errors import RequestError
from parediff.model.weights import load_into, load_weights


class ConvNet(nn.Module):
    """3x3 convolutions, each with BatchNorm and ReLU, then the mean over positions: features [B, channels[-1]], logits.

    Input NCHW in [-1, 1]; `strides` has one entry per convolution.
    """

    def __init__(self, *, in_channels: int, channels: tuple[int, ...], strides: tuple[int, ...], classes: int) -> None:
        super().__init__()
        blocks = []
        for wide, stride in zip(channels, strides, strict=True):
            conv = nn.Conv2d(in_channels, wide, 3, stride=stride, padding=1, bias=False)
            blocks.append(nn.Sequential(conv, nn.BatchNorm2d(wide), nn.ReLU()))
            in_channels = wide
        self.blocks = nn.Sequential(*blocks)
        self.linear = nn.Linear(in_channels, classes)

    def features(self, images: Tensor) -> Tensor:
        return self.blocks(images).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.features(images))


NETWORKS: dict[str, type[nn.Module]] = {"ConvNet": ConvNet}


class ClassifierArchitecture:
    """An untrained network of `NETWORKS`, saved as config.json and model.safetensors."""

    def __init__(self, *, network: str, arguments: dict[str, Any], seed: int) -> None:
        self.kind, self.arguments = network, arguments
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = build(network, arguments)

    def parts(self) -> dict[str, Any]:
        """What its learner needs."""
        return {"network": self.network}

    def check(self, image_shape: tuple[int, int, int], classes: int) -> None:
        """That images C,H,W with so many classes fit, before anything is trained."""
        self.network.eval()
        with torch.no_grad():
            try:
                logits = self.network(torch.zeros(1, *image_shape))
            except RuntimeError as error:
                raise RequestError(
                    "architecture.arguments", self.arguments, f"room for images {image_shape}"
                ) from error
        self.network.train()
        if logits.shape[1] != classes:
            raise RequestError("architecture.arguments.classes", logits.shape[1], f"{classes}, as the data has")

    def save(self, folder: Path) -> None:
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        config = {"network": self.kind, "arguments": self.arguments}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        tensors = {name: tensor.contiguous() for name, tensor in self.network.state_dict().items()}
        save_file(tensors, folder / "model.safetensors")


def build(network: str, arguments: dict[str, Any]) -> nn.Module:
    if network not in NETWORKS:
        raise RequestError("architecture.network", network, f"one of {', '.join(sorted(NETWORKS))}")
    try:
        return NETWORKS[network](**arguments)
    except (TypeError, ValueError) as error:
        raise RequestError("architecture.arguments", arguments, " ".join(str(error).split())[:200]) from error


def load_classifier(folder: str | Path) -> nn.Module:
    """The classifier that `ClassifierArchitecture.save` wrote, in eval mode."""
    folder = Path(folder)
    description = folder / "config.json"
    if not description.is_file():
        raise RequestError("path", folder, "a folder with config.json and model.safetensors")
    try:
        config = json.loads(description.read_text())
        network = build(config["network"], config["arguments"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise RequestError("path", folder, "config.json must name a network and its arguments") from error
    weights = folder / "model.safetensors"
    load_into(network, load_weights(weights, "path"), weights, "path")
    return network.eval()
