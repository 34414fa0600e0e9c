"""Looking into a classifier while it runs: what its BatchNorms see, and what its last layer reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from parediff.errors import RequestError

NormInput = tuple[_BatchNorm, Tensor]
"""(BatchNorm, what it was given [N, C, ...])."""


def norms_of(network: nn.Module) -> list[_BatchNorm]:
    """Every BatchNorm with stored statistics, in definition order."""
    return [m for m in network.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def require_norms(network: nn.Module, source: str) -> None:
    """Raise RequestError where images cannot be judged by stored statistics."""
    if not norms_of(network):
        accepted = (
            "a model with BatchNorm is accepted, this one stores no statistics; noise and real_data work for any "
            "classifier, uniform, ndtc, single_step and sensitive for a diffusion model"
        )
        raise RequestError("calibration", source, accepted)


@dataclass
class Seen:
    """One pass: logits [N, classes], what the last linear layer read [N, features], what every BatchNorm was given."""

    logits: Tensor
    features: Tensor
    norm_inputs: list[NormInput]


@contextmanager
def norm_inputs(network: nn.Module) -> Iterator[list[NormInput]]:
    """What every BatchNorm is given while the block runs, in the order in which they run."""
    seen: list[NormInput] = []

    def keep(norm: Any, arguments: Any) -> None:
        seen.append((norm, arguments[0]))

    with ExitStack() as stack:
        for norm in norms_of(network):
            stack.callback(norm.register_forward_pre_hook(keep).remove)
        yield seen


@contextmanager
def classifier_inputs(network: nn.Module) -> Iterator[list[Tensor]]:
    """What the last linear layer reads [N, features], pass by pass, while the block runs."""
    linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not linears:
        raise RequestError("model", type(network).__name__, "a classifier that ends in a linear layer is accepted")
    read: list[Tensor] = []
    hook = linears[-1].register_forward_pre_hook(lambda _, arguments: read.append(arguments[0]))
    try:
        yield read
    finally:
        hook.remove()


def look(network: nn.Module, images: Tensor) -> Seen:
    """One pass of images NCHW in [-1, 1] with everything a data-free loss asks about."""
    with norm_inputs(network) as norms, classifier_inputs(network) as read:
        logits = network(images)
    return Seen(logits, read[-1], norms)
