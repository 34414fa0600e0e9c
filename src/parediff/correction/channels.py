"""Channels that only one layer reads: one written as a combination of others, or scaled, in closed form (UDFC).

UDFC, arXiv 2308.07209; of the paper the abstract and a summary could be read, so the ridge problems and what is chosen
by which norm are our derivation (data-free.md, section 6.2). Channel i of a layer behind its BatchNorm is
u_i = n_i x + c_i, with a_i = gain_i / sqrt(variance_i + eps), n_i = a_i w_i and c_i = bias_i + a_i (b_i - mean_i). ReLU
commutes with factors of at least 0, so what channel i carries can be scaled in the layer that reads it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from parediff.errors import RequestError
from parediff.quantization.layers import LAYERS, FoldableLayer

RELUS = ("relu", "relu_", F.relu, torch.relu, torch.relu_)
POOLS = (nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.MaxPool2d, nn.Identity, nn.Dropout, nn.Flatten)
"""Modules behind a ReLU that keep factors of channels as they are."""
POOLINGS = ("flatten", torch.flatten, F.adaptive_avg_pool2d, F.avg_pool2d, F.max_pool2d, F.dropout)
POSITIONS = {2, 3, -1, -2}


@dataclass(frozen=True)
class Link:
    """A convolution or linear, its BatchNorm, and the one layer that reads ReLU of it, by their paths."""

    layer: str
    norm: str
    reader: str


@dataclass(frozen=True)
class Channels:
    """What the channels of a layer are behind its BatchNorm: n_i as rows [C, inputs] and c_i [C], in float64."""

    rows: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None, norm: Any) -> Channels:
        """`weight` [C, ...] and `bias` [C] stand before `norm`."""
        mean, variance = (value.to(weight.device).double() for value in (norm.running_mean, norm.running_var))
        gain = norm.weight.double() / (variance + norm.eps).sqrt()  # an outline's buffers are not where its weights are
        shift = -mean if bias is None else bias.double() - mean
        return cls(gain[:, None] * weight.double().flatten(1), norm.bias.double() + gain * shift)

    def at(self, index: Tensor) -> Channels:
        return Channels(self.rows[index], self.offsets[index])


class Tracer(fx.Tracer):
    """Layers are leaves, quantised ones too."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, FoldableLayer) or super().is_leaf_module(m, module_qualified_name)


def links(root: nn.Module) -> list[Link]:
    """Every link of a network, in the order in which they run; each layer is called once in it.

    Raises RequestError where the network does something that its graph cannot say.
    """
    try:
        graph = Tracer().trace(root)
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        accepted = f"a network of a fixed graph is accepted; this one branches on what it computes ({reason})"
        raise RequestError("model", type(root).__name__, accepted) from error
    modules = dict(root.named_modules(remove_duplicate=False))
    called = [modules[str(node.target)] for node in graph.nodes if node.op == "call_module"]
    often = {id(module) for module in called if sum(module is other for other in called) > 1}
    found = [_link(node, modules) for node in graph.nodes if node.op == "call_module"]
    return [
        link
        for link in found
        if link is not None and not often & {id(modules[path]) for path in (link.layer, link.norm, link.reader)}
    ]


def _link(node: Any, modules: dict[str, nn.Module]) -> Link | None:
    layer = plain(modules[node.target])
    norm = _only_reader(node)
    activation = norm and _only_reader(norm)
    if norm is None or activation is None or norm.op != "call_module" or not _is_relu(activation, modules):
        return None
    statistics, reader = modules[norm.target], _only_reader(activation)
    while reader is not None and _keeps_channels(reader, modules):
        reader = _only_reader(reader)
    if reader is None or reader.op != "call_module" or not _is_affine(statistics):
        return None
    reads = plain(modules[reader.target])
    fits = _ungrouped(layer) and _ungrouped(reads) and reads.weight.shape[1] == layer.weight.shape[0]
    return Link(node.target, norm.target, reader.target) if fits else None


def plain(module: Any) -> Any:
    """The layer itself, where quantisers stand around it."""
    return module.layer if isinstance(module, FoldableLayer) else module


def _only_reader(node: Any) -> Any | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _is_relu(node: Any, modules: dict[str, nn.Module]) -> bool:
    return type(modules[node.target]) is nn.ReLU if node.op == "call_module" else node.target in RELUS


def _keeps_channels(node: Any, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules[node.target], POOLS)
    if node.target in ("mean", torch.mean):
        named = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", ())
        return bool(named) and {*(named if isinstance(named, tuple | list) else (named,))} <= POSITIONS
    return node.target in POOLINGS


def _is_affine(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.affine and module.running_mean is not None


def _ungrouped(layer: Any) -> bool:
    return isinstance(layer, LAYERS) and getattr(layer, "groups", 1) == 1


def combination(kept: Channels, gone: Channels, ridge: float, offset_weight: float) -> Tensor:
    """s [kept, gone] >= 0: each of `gone` as sum_i s_i (n_i, c_i) of the kept ones.

    s = (N^T N + alpha_2 c c^T + alpha_1 I)^-1 (N^T n_j + alpha_2 c_j c), clipped at 0; where what is clipped away would
    leave a larger error than nothing at all, nothing.
    """
    inner = lambda a, b: a.rows @ b.rows.T + offset_weight * torch.outer(a.offsets, b.offsets)  # noqa: E731
    gram, wanted = inner(kept, kept), inner(kept, gone)
    found = torch.linalg.solve(gram + ridge * torch.eye(len(gram)).to(gram), wanted).clamp_min(0)
    change = (found * (gram @ found)).sum(0) - 2 * (found * wanted).sum(0) + ridge * found.square().sum(0)
    return torch.where(change <= 0, found, torch.zeros_like(found))


def factors(exact: Channels, rounded: Channels, ridge: float, offset_weight: float) -> Tensor:
    """s_i >= 0 [C] that brings each rounded channel nearest to the exact one; 1 where there is nothing to scale.

    s_i = (<n_i, m_i> + alpha_2 c_i d_i + alpha_1) / (|m_i|^2 + alpha_2 d_i^2 + alpha_1) for rounded rows m and offsets
    d; alpha_1 pulls it towards 1.
    """
    inner = lambda a, b: (a.rows * b.rows).sum(1) + offset_weight * a.offsets * b.offsets + ridge  # noqa: E731
    own, shared = inner(rounded, rounded), inner(exact, rounded)
    return torch.where(own > 0, shared / own.clamp_min(1e-300), torch.ones_like(own)).clamp_min(0)


Weighing = Callable[[Channels, Channels], Tensor]
"""(kept, gone) -> how much of each kept channel stands for each that is gone."""


@torch.no_grad()
def drop(root: nn.Module, link: Link, count: int, weigh: Weighing) -> None:
    """Remove the `count` channels of smallest |n_i|_1; what they carried goes into the reader's other inputs."""
    found: list[Any] = [root.get_submodule(path) for path in (link.layer, link.norm, link.reader)]
    layer, norm, reader = found
    channels = Channels.of(layer.weight, layer.bias, norm)
    order = channels.rows.abs().sum(1).argsort(stable=True)
    gone, kept = order[:count].sort().values, order[count:].sort().values
    shares = weigh(channels.at(kept), channels.at(gone)).to(reader.weight.dtype)
    carried = torch.einsum("kg,og...->ok...", shares, reader.weight[:, gone])
    _set(reader, "weight", reader.weight[:, kept] + carried)
    _set(layer, "weight", layer.weight[kept])
    if layer.bias is not None:
        _set(layer, "bias", layer.bias[kept])
    for name in ("weight", "bias"):
        _set(norm, name, getattr(norm, name)[kept])
    for name in ("running_mean", "running_var"):
        setattr(norm, name, getattr(norm, name).to(kept.device)[kept])
    norm.num_features = len(kept)
    for module, names in ((layer, ("out_channels", "out_features")), (reader, ("in_channels", "in_features"))):
        setattr(module, next(name for name in names if hasattr(module, name)), len(kept))


def _set(module: nn.Module, name: str, value: Tensor) -> None:
    setattr(module, name, nn.Parameter(value, requires_grad=getattr(module, name).requires_grad))


class Factors(nn.Module):
    """What a norm's gains and biases were multiplied by, [C]: proof alone, of which nothing is deployed."""

    values: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("values", torch.ones(channels))

    def deployed(self) -> dict[str, tuple[Tensor, float]]:
        return {}


@torch.no_grad()
def scale(root: nn.Module, link: Link, found: Tensor) -> None:
    """Multiply the channels by factors of at least 0, before the ReLU; which were they, `Factors` below it keeps."""
    norm: Any = root.get_submodule(link.norm)
    values = found.to(norm.weight)
    norm.weight.mul_(values)
    norm.bias.mul_(values)
    norm.repair.values.mul_(values)
