"""A tiny trained-looking classifier and a way to train on it in a fraction of a second."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from parediff.calibration.images import Studio
from parediff.models.classifiers.model import ClassifierModel
from parediff.models.classifiers.networks import ConvNet
from parediff.training.fit import Trainer

SHAPE, CLASSES = (1, 8, 8), 3


def network(seed: int = 0) -> nn.Module:
    """8x8 images of three classes; its BatchNorms remember 8 batches of blobs."""
    torch.manual_seed(seed)
    net = ConvNet(in_channels=1, channels=(4, 8), strides=(1, 2), classes=CLASSES)
    for _ in range(8):
        net(blobs(32))
    return net.eval().requires_grad_(False)


def blobs(count: int) -> Tensor:
    """Smooth images in [-1, 1]."""
    coarse = torch.rand(count, 1, 3, 3) * 2 - 1
    return nn.functional.interpolate(coarse, size=SHAPE[1:], mode="bilinear")


def trainer(steps: int, **changes: Any) -> Trainer:
    settings: dict[str, Any] = {
        "max_steps": steps,
        "gradient_clip": 1.0,
        "accelerator": "cpu",
        "devices": 1,
        "precision": "32-true",
        "validate_every": 0,
        "checkpoint_every": 0,
        "keep_checkpoints": 1,
        "log_every": 50,
        "progress": False,
    }
    return Trainer(**(settings | changes))


def studio(folder: Path, net: nn.Module | None = None) -> Studio:
    """Whatever a source trains is trained below `folder`."""
    model = ClassifierModel(network() if net is None else net, name="tiny")
    data = SimpleNamespace(image_shape=SHAPE, classes=["a", "b", "c"], train=[(image, 0) for image in blobs(16)])

    def fit(name: str, module: Any, steps: int) -> None:
        trainer(steps).fit(module, folder / name)

    return Studio.of(model, lambda: data, fit)


def hooks(net: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in net.modules())
