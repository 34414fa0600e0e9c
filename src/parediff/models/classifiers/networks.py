"""Image classification networks. All take NCHW images in [-1, 1], so that data modules and samples fit any of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from parediff.errors import RequestError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ConvNet(nn.Module):
    """3x3 convolutions, each with BatchNorm and ReLU, then the mean over positions: features [B, channels[-1]], logits.

    `strides` has one entry per convolution.
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


class Normalised(nn.Module):
    """[-1, 1] -> (image in [0, 1] - mean) / std, per channel; its constants are no part of a checkpoint."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(list(mean))[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(list(std))[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return ((images + 1) / 2 - self.mean) / self.std

    def inverse(self, normalised: Tensor) -> Tensor:
        """(image in [0, 1] - mean) / std -> [-1, 1]; values beyond stay beyond."""
        return 2 * (normalised * self.std + self.mean) - 1


def as_images(network: nn.Module, normalised: Tensor) -> Tensor:
    """From the space in which a network's input has mean 0 and variance 1 to the images that it takes.

    A network that does not normalise takes them as they are.
    """
    own = getattr(network, "normalise", None)
    return own.inverse(normalised) if isinstance(own, Normalised) else normalised


class Shortcut(nn.Module):
    """He et al. 2015, option A: every second pixel, zero channels padded equally on both sides; no parameters."""

    def __init__(self, extra: int) -> None:
        super().__init__()
        self.extra = extra

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra // 2, self.extra // 2))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm beside a shortcut; ReLU after the addition."""

    def __init__(self, narrow: int, wide: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(narrow, wide, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(wide)
        self.conv2 = nn.Conv2d(wide, wide, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(wide)
        self.shortcut = nn.Identity() if (stride, narrow) == (1, wide) else Shortcut(wide - narrow)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(h)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """ResNet-`depth` of He et al. 2015, section 4.2, on 32x32 RGB: 16, 32, 64 channels, (depth - 2) / 6 blocks each.

    Keys as in akamaster/pytorch_resnet_cifar10: conv1, bn1, layer{1,2,3}.{i}.{conv1,bn1,conv2,bn2}, linear.
    """

    def __init__(self, *, depth: int, classes: int) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise RequestError("depth", depth, "6 n + 2: 20, 32, 44, 56, 110, …")
        count = (depth - 2) // 6
        self.normalise = Normalised()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, 1, count)
        self.layer2 = _stage(16, 32, 2, count)
        self.layer3 = _stage(32, 64, 2, count)
        self.linear = nn.Linear(64, classes)

    def features(self, images: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(self.normalise(images))))
        return self.layer3(self.layer2(self.layer1(x))).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.features(images))


def _stage(narrow: int, wide: int, stride: int, count: int) -> nn.Sequential:
    first = BasicBlock(narrow, wide, stride)
    return nn.Sequential(first, *(BasicBlock(wide, wide, 1) for _ in range(count - 1)))


class TorchvisionNet(nn.Module):
    """A torchvision classifier by name, untrained; files with torchvision's own keys load into `.network`."""

    foreign_prefix = "network."

    def __init__(self, *, architecture: str, classes: int) -> None:
        super().__init__()
        from torchvision import models

        known = models.list_models(module=models)
        if architecture not in known:
            raise RequestError("architecture", architecture, f"a torchvision classifier, as {', '.join(known[:6])}, …")
        self.normalise = Normalised()
        self.network = models.get_model(architecture, weights=None, num_classes=classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.normalise(images))
