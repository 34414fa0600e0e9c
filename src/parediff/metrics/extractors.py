"""What turns images into the features that distances are measured on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from parediff.errors import RequestError
from parediff.provenance import file_fingerprint
from parediff.resources import folder_of


class Extractor(ABC):
    """A fixed map from images to vectors; another one makes another Fréchet distance of the same code."""

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Features [N, D] on the CPU, of images uint8 NCHW; image i decides row i alone."""

    def check(self, image_shape: tuple[int, int, int]) -> None:
        """Raise RequestError unless images C,H,W can be taken."""
        try:
            self.features(torch.zeros(1, *image_shape, dtype=torch.uint8))
        except RuntimeError as error:
            shape = "x".join(map(str, image_shape))
            raise RequestError("extractor", type(self).__name__, f"it takes no images of {shape}") from error

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """What decides the features."""


@dataclass(eq=False)
class Classifier(Extractor):
    """A trained classifier read from its folder (`assets://name` ships): `.features` before its last layer, `.logits`.

    The network takes NCHW in [-1, 1]; constructing this checks the folder, the first image loads it.
    """

    path: str

    def __post_init__(self) -> None:
        for name in ("config.json", "model.safetensors"):
            if not (self.folder / name).is_file():
                accepted = (
                    f"a classifier's folder is accepted, with config.json and model.safetensors; {name} is missing"
                )
                raise RequestError("path", self.path, accepted)

    @property
    def folder(self) -> Path:
        return folder_of(self.path)

    @cached_property
    def network(self) -> nn.Module:
        from parediff.models.classifiers.pretrained import load_classifier

        return load_classifier(self.folder).eval()

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        network: Any = self.network
        return network.features(normalised(images)).flatten(1).float()

    @torch.inference_mode()
    def logits(self, images: Tensor) -> Tensor:
        """Scores [N, classes]."""
        return self.network(normalised(images)).float()

    def fingerprint(self) -> dict[str, Any]:
        names = ("config.json", "model.safetensors")
        return {"classifier": self.folder.name, **{name: file_fingerprint(self.folder / name) for name in names}}


def normalised(images: Tensor) -> Tensor:
    """uint8 0..255 to float [-1, 1]."""
    return images.float() / 127.5 - 1
