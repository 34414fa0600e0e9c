"""What turns images into the features that distances are measured on."""

from __future__ import annotations

import json
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from parediff.errors import RequestError
from parediff.metrics.statistics import Array
from parediff.models.finite import require_finite
from parediff.provenance import file_fingerprint
from parediff.resources import folder_of
from parediff.validation import check_types


class Extractor(ABC):
    """A fixed map from images to vectors; another one makes another Fréchet distance of the same code.

    `resizes`: images of any size are brought to the size that the network wants.
    """

    resizes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_types(self)

    @property
    @abstractmethod
    def name(self) -> str:
        """What a distance on it is called after."""

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Features [N, D] on the CPU, of images uint8 NCHW; image i decides row i alone."""

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """What decides the features."""

    def check(self, image_shape: tuple[int, int, int]) -> None:
        """Raise RequestError unless images C,H,W can be taken."""
        try:
            self.features(torch.zeros(1, *image_shape, dtype=torch.uint8))
        except RuntimeError as error:
            shape = "x".join(map(str, image_shape))
            raise RequestError("extractor", type(self).__name__, f"it takes no images of {shape}") from error

    def rows(self, images: Tensor) -> Array:
        """Features [N, D] that are all finite; asked again for the same batch, they are not computed again."""
        last: Any = self.__dict__.get("_last")
        if last is None or last[0]() is not images:
            found = require_finite(self.features(images), f"features of {self.name}").numpy()
            last = self.__dict__["_last"] = weakref.ref(images), found
        return last[1]


def coloured(images: Tensor) -> Tensor:
    """RGB as it is, grey repeated three times: what networks trained on photographs take."""
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def check_photographs(extractor: Extractor, image_shape: tuple[int, int, int]) -> None:
    """Raise RequestError unless images are grey or RGB."""
    if image_shape[0] not in (1, 3):
        raise RequestError("extractor", extractor.name, f"images of 1 or 3 channels are accepted, not {image_shape[0]}")


def check_within(extractor: Extractor, image_shape: tuple[int, int, int]) -> None:
    """The extractor's check for a metric that holds it: a complaint about its weights names the metric's option."""
    try:
        extractor.check(image_shape)
    except RequestError as error:
        raise (error.within("extractor") if error.key == "path" else error) from error


def accelerator() -> torch.device:
    """Where big networks run."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(eq=False)
class Classifier(Extractor):
    """A trained classifier read from its folder (`assets://name` ships): `.features` before its last layer, `.logits`.

    The network takes NCHW in [-1, 1]; constructing this checks the folder, the first image loads it.
    """

    path: Annotated[str, "a folder that `parediff train` wrote"]

    def __post_init__(self) -> None:
        super().__post_init__()
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
    def config(self) -> dict[str, Any]:
        """As training wrote it: the network, and what it was trained on where that is told."""
        return json.loads((self.folder / "config.json").read_text(encoding="utf-8"))

    @property
    def name(self) -> str:
        """Of the data it was trained on, else of its folder."""
        return str((self.config.get("trained_on") or {}).get("name") or self.folder.name)

    @cached_property
    def network(self) -> nn.Module:
        from parediff.models.classifiers.pretrained import load_classifier

        return load_classifier(self.folder).eval()

    def check(self, image_shape: tuple[int, int, int]) -> None:
        """Only images of the size it learned from; an older folder that does not tell takes what it can compute."""
        learned = (self.config.get("trained_on") or {}).get("image_shape")
        if learned is not None and tuple(learned) != tuple(image_shape):
            accepted = f"it learned from images of {_by(learned)}, these are {_by(image_shape)}"
            raise RequestError("extractor", self.name, accepted)
        super().check(image_shape)

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


def _by(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))
