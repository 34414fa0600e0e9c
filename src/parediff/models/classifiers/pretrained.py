"""Image classifiers: from the package, from a folder that a training wrote, from a weights file, or untrained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from accelerate import init_empty_weights
from torch import nn

from parediff.errors import RequestError
from parediff.models.classifiers.build import build
from parediff.models.classifiers.imported import is_known
from parediff.models.classifiers.model import ClassifierModel
from parediff.models.classifiers.networks import IMAGENET_MEAN, IMAGENET_STD
from parediff.models.weights import load_into, load_weights, renamed
from parediff.provenance import file_fingerprint
from parediff.resources import folder_of
from parediff.validation import Seed, check_types

Network = Annotated[
    Literal["ConvNet", "CifarResNet", "TorchvisionNet", "ImportedNet"], "which of the package's networks"
]

Arguments = Annotated[dict[str, Any], "of the network's constructor"]
InitialSeed = Annotated[Seed, "of the untrained weights"]


@dataclass(frozen=True)
class PretrainedClassifier:
    """Trained weights for a network of `networks.py` beside this; constructing it checks that they are there.

    `path` is a folder that `parediff train` wrote (`assets://name` for one that ships); `checkpoint`, a weights file
    for `network`, goes before it; `keys` turns beginnings of the file's names into the network's.
    `target`, with `arguments`, `mean` and `std` of its own, is the network of somebody else that `ImportedNet` holds.
    """

    name: Annotated[str, "what records call it"]
    path: Annotated[str, "a folder that `parediff train` wrote"] | None
    checkpoint: Annotated[str, "a weights file: safetensors, or a torch file of tensors only"] | None
    random_weights: Annotated[bool, "an untrained network, on purpose"]
    network: Network
    arguments: Annotated[Mapping[str, Any], "of the network's constructor"]
    keys: Annotated[Mapping[str, str], "beginnings of names in the weights file, and what the network calls them"] = (
        field(default_factory=dict)
    )
    target: Annotated[str, "an import path, timm/NAME or transformers/TYPE"] | None = None
    mean: Annotated[tuple[float, ...], "of images in [0, 1], one value a channel"] = IMAGENET_MEAN
    std: Annotated[tuple[float, ...], "of images in [0, 1], one value a channel"] = IMAGENET_STD

    def __post_init__(self) -> None:
        check_types(self)
        if self.path is None and self.checkpoint is None and not self.random_weights:
            accepted = "a weights file, else path=FOLDER, else random_weights=true for an untrained network"
            raise RequestError("checkpoint", "null", accepted)
        if self.path is not None and not (self.folder / "config.json").is_file():
            raise RequestError("path", self.path, "a folder with config.json and model.safetensors")
        if self.checkpoint is not None and not Path(self.checkpoint).is_file():
            raise RequestError("checkpoint", self.checkpoint, "no such file")

    @property
    def folder(self) -> Path:
        return folder_of(str(self.path))

    def _arguments(self) -> dict[str, Any]:
        if self.target is None:
            return dict(self.arguments)
        held = {"mean": list(self.mean), "std": list(self.std)}
        return {"target": self.target, "arguments": dict(self.arguments)} | held

    def image_shape(self) -> None:
        """A classifier draws no images."""
        return

    def fingerprint(self) -> dict[str, Any]:
        """What decides its answers: the network, and the bytes of its weights."""
        file = Path(self.checkpoint) if self.checkpoint else self.folder / "model.safetensors" if self.path else None
        asked = {"name": self.name, "network": self.network, "arguments": self._arguments()}
        asked |= {"keys": dict(self.keys)} if self.keys else {}
        return asked | {"weights": file and file_fingerprint(file)}

    def load(self, device: str) -> ClassifierModel:
        """In eval mode on `device`, as methods see it."""
        return ClassifierModel(self.network_with_weights().to(device), name=self.name)

    def outline(self) -> ClassifierModel:
        """The network without weights: its parameters are meta tensors."""
        with init_empty_weights():
            if self.checkpoint is None and self.path is not None:
                return ClassifierModel(described(self.path, self.target), name=self.name)
            return ClassifierModel(self._untrained(), name=self.name)

    def network_with_weights(self) -> nn.Module:
        """In eval mode on the CPU."""
        if self.checkpoint is None and self.path is not None:
            return load_classifier(self.path, self.target)
        network = self._untrained()
        if self.checkpoint is not None:
            prefix = getattr(network, "foreign_prefix", "")
            weights = renamed(load_weights(self.checkpoint), self.keys, prefix)
            load_into(network, weights, self.checkpoint)
        return network.eval()

    def _untrained(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return build(self.network, self._arguments())


class ClassifierArchitecture:
    """An untrained network, and how it is saved: config.json and model.safetensors.

    Arguments `in_channels` and `classes` that are null follow the data; it is told in config.json what was learned.
    """

    def __init__(self, *, network: Network, arguments: Arguments, seed: InitialSeed) -> None:
        self.kind, self.arguments, self.seed = network, dict(arguments), seed
        self.trained_on: dict[str, Any] = {}

    @cached_property
    def network(self) -> nn.Module:
        """Untrained; the seed decides its weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return build(self.kind, self.arguments)

    def parts(self) -> dict[str, Any]:
        """What its learner needs."""
        return {"network": self.network}

    def check(self, image_shape: tuple[int, int, int], classes: int) -> None:
        """That images C,H,W with so many classes fit, before anything is trained."""
        if classes < 2:
            raise RequestError("data", f"{classes} class", "2 or more are accepted: a sub-folder each names them")
        following = {"in_channels": image_shape[0], "classes": classes}
        self.arguments |= {name: following[name] for name in following if self.arguments.get(name, 0) is None}
        self.network.eval()
        try:
            with torch.no_grad():
                logits = self.network(torch.zeros(1, *image_shape))
        except RuntimeError as error:
            accepted = f"a network for images of shape {image_shape}"
            raise RequestError("arguments", self.arguments, accepted) from error
        self.network.train()
        if logits.shape[1] != classes:
            raise RequestError("arguments.classes", logits.shape[1], f"{classes}, as the data has")
        self.trained_on = {"image_shape": list(image_shape), "classes": classes}

    def save(self, folder: Path, data: str) -> None:
        """`data` is the name of what it learned from."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        config = {"network": self.kind, "arguments": self.arguments, "trained_on": {"name": data, **self.trained_on}}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        tensors = {name: tensor.contiguous() for name, tensor in self.network.state_dict().items()}
        save_file(tensors, folder / "model.safetensors")


def load_classifier(path: str | Path, named: str | None = None) -> nn.Module:
    """The classifier that `ClassifierArchitecture.save` wrote, in eval mode; `assets://name` is one that ships."""
    network, weights = described(path, named), folder_of(path) / "model.safetensors"
    load_into(network, load_weights(weights, "path"), weights, "path")
    return network.eval()


def described(path: str | Path, named: str | None = None) -> nn.Module:
    """The network that a folder of `ClassifierArchitecture.save` describes, without its weights.

    A folder's network of nobody's library is code of whoever wrote the folder: it has to be `named` by the request.
    """
    description = folder_of(path) / "config.json"
    if not description.is_file():
        raise RequestError("path", path, "a folder with config.json and model.safetensors")
    try:
        config = json.loads(description.read_text())
        target = str(config["arguments"].get("target", named))
        if config["network"] == "ImportedNet" and target != named and not is_known(target):
            raise RequestError("path", path, f"a network of a library, or model.target={target}, is accepted")
        return build(config["network"], config["arguments"])
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise RequestError("path", path, "config.json must name a network and its arguments") from error
