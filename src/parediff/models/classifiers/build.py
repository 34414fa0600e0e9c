"""A network by the name of its kind."""

from __future__ import annotations

from typing import Any

from torch import nn

from parediff.errors import RequestError
from parediff.models.classifiers.imported import ImportedNet
from parediff.models.classifiers.networks import CifarResNet, ConvNet, TorchvisionNet

NETWORKS: dict[str, type[nn.Module]] = {
    "ConvNet": ConvNet,
    "CifarResNet": CifarResNet,
    "TorchvisionNet": TorchvisionNet,
    "ImportedNet": ImportedNet,
}


def build(network: str, arguments: dict[str, Any]) -> nn.Module:
    """A fresh network of `NETWORKS`, by the name of its class."""
    if network not in NETWORKS:
        raise RequestError("network", network, f"one of {', '.join(sorted(NETWORKS))}")
    try:
        return NETWORKS[network](**arguments)
    except RequestError as error:
        raise error.within("arguments") from error
    except (TypeError, ValueError) as error:
        raise RequestError("arguments", arguments, " ".join(str(error).split())[:200]) from error
