"""Any classifier by its import path, or by its name in timm or transformers: nobody edits a table here."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from parediff.errors import RequestError
from parediff.models.classifiers.networks import Normalised

LIBRARIES = ("timm", "transformers")
INSTALLED = "torchvision.models."


def is_known(target: str) -> bool:
    """Whether it is a network of a library: anything else runs the code of whoever wrote the request or the folder."""
    return target.partition("/")[0] in LIBRARIES or target.startswith(INSTALLED)


class ImportedNet(nn.Module):
    """`target` built with `arguments`, behind its own normalisation; files with its own keys load into `.network`.

    `target` is an import path (`torchvision.models.vit_b_16`), `timm/NAME`, or `transformers/TYPE` of an image
    classifier, as in its config.json. `mean` and `std` are of images in [0, 1], one value a channel.
    """

    foreign_prefix = "network."

    def __init__(self, *, target: str, arguments: dict[str, Any], mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        network = _factory(target)(**arguments)
        if not isinstance(network, nn.Module):
            raise RequestError("target", target, "something that gives a torch module is accepted")
        self.normalise = Normalised(mean, std)
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(self.normalise(images))
        return logits if isinstance(logits, Tensor) else logits.logits


def _factory(target: str) -> Callable[..., Any]:
    library, slash, name = target.partition("/")
    if slash and library in LIBRARIES:
        return _timm(name) if library == "timm" else _transformers(name)
    module, _, attribute = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        accepted = "an import path, timm/NAME or transformers/TYPE is accepted"
        raise RequestError("target", target, f"{accepted} ({' '.join(str(error).split())[:120]})") from error
    if not callable(found):
        raise RequestError("target", target, "a class or a function is accepted")
    return found


def _timm(name: str) -> Callable[..., Any]:
    import timm

    if not timm.is_model(name):
        raise RequestError("target", f"timm/{name}", f"a model of timm is accepted, as {timm.list_models()[0]}")
    return lambda **arguments: timm.create_model(name, pretrained=False, **arguments)


def _transformers(kind: str) -> Callable[..., Any]:
    from transformers import AutoConfig, AutoModelForImageClassification

    def build(**arguments: Any) -> Any:
        try:
            return AutoModelForImageClassification.from_config(AutoConfig.for_model(kind, **arguments))
        except ValueError as error:
            accepted = "the type of an image classifier of transformers is accepted, as vit"
            raise RequestError("target", f"transformers/{kind}", accepted) from error

    return build
