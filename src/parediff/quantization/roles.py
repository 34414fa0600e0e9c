"""What a layer is to its network: first, last, of time alone, fed by SiLU, or fed by a concatenation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from parediff.models.tree import named
from parediff.quantization.layers import LAYERS, FoldableLayer

Position = Literal["first", "last", "time", "inner"]

FIRST = ("conv_in", "pos_embed.proj")
LAST = ("conv_out", "proj_out_2", "proj_out")
TIME = re.compile(
    r"(^|\.)(time_embedding|time_emb_proj|timestep_embedder|class_embedding|add_embedding|adaln_single)(\.|$)"
)


FUNCTIONAL = ("MultiheadAttention", "HunyuanDiTAttentionPool")
"""What hands its layers' weights to a function of torch and never calls the layers."""


@dataclass(frozen=True)
class Role:
    """`after_silu`: the input is SiLU's output. `border`: the input is [deep, skip], joined at this channel.

    `dropout`: the share that a dropout between SiLU and the layer drops. `timeless`: it runs before any block has seen
    the time step.
    """

    path: str
    position: Position
    after_silu: bool
    border: int | None
    dropout: float
    timeless: bool


def roles(root: nn.Module) -> list[Role]:
    """Every convolution and linear that is not quantised yet and is called, in definition order.

    First and last go by diffusers' names, in other networks by order. Time layers are those that do not see the image:
    the time MLP, class embeddings, projections of either, adaLN's linears.
    """
    found = dict(named(root, (*LAYERS, FoldableLayer)))
    ends = _end(found, FIRST, 0), _end(found, LAST, -1)
    borders = skip_borders(root)
    return [
        Role(
            path,
            _position(root, path, ends),
            after_silu(root, path),
            _border(path, borders),
            _dropout(root, path),
            path == ends[0] and "." in path,  # a transformer's patches are embedded before its blocks see the time
        )
        for path, layer in found.items()
        if isinstance(layer, LAYERS) and _is_called(root, path)
    ]


def _is_called(root: nn.Module, path: str) -> bool:
    return type(root.get_submodule(path.rpartition(".")[0])).__name__ not in FUNCTIONAL


def _dropout(root: nn.Module, path: str) -> float:
    """In front of a residual block's second convolution."""
    owner, _, name = path.rpartition(".")
    dropout = getattr(root.get_submodule(owner), "dropout", None) if name == "conv2" else None
    return float(dropout.p) if isinstance(dropout, nn.Dropout) else 0.0


def _end(found: dict[str, nn.Module], names: tuple[str, ...], place: int) -> str:
    by_name = [name for name in names if name in found]
    return by_name[0] if by_name else [*found, ""][:-1][place] if found else ""


def _position(root: nn.Module, path: str, ends: tuple[str, str]) -> Position:
    if path == ends[0]:
        return "first"
    if path == ends[1]:
        return "last"
    return "time" if depends_on_time_only(root, path) else "inner"


def depends_on_time_only(root: nn.Module, path: str) -> bool:
    """Whether a layer sees the time step (and class) but never the image."""
    if TIME.search(path):
        return True
    owner, _, name = path.rpartition(".")
    if not owner and name == "proj_out_1":  # DiT's last modulation
        return True
    return name == "linear" and isinstance(getattr(root.get_submodule(owner), "silu", None), nn.SiLU)


def after_silu(root: nn.Module, path: str) -> bool:
    """Whether a layer's input comes out of SiLU: it is never below -0.278464543."""
    parent, _, name = path.rpartition(".")
    owner: Any = root.get_submodule(parent)
    if name in ("conv1", "conv2"):
        return isinstance(getattr(owner, "nonlinearity", None), nn.SiLU)
    if name == "time_emb_proj":
        return isinstance(getattr(owner, "nonlinearity", None), nn.SiLU) and not getattr(owner, "skip_time_act", False)
    if name == "linear_2":
        return isinstance(getattr(owner, "act", None), nn.SiLU)
    if name == "linear":
        return isinstance(getattr(owner, "silu", None), nn.SiLU)
    if not parent and name == "conv_out":
        return isinstance(getattr(owner, "conv_act", None), nn.SiLU)
    if not parent and name == "proj_out_1":
        return True
    return isinstance(owner, nn.Sequential) and name.isdigit() and int(name) > 0 and _is_silu(owner[int(name) - 1])


def _is_silu(module: nn.Module) -> bool:
    return isinstance(module, nn.SiLU)


def skip_borders(root: Any) -> dict[str, int]:
    """Residual blocks of a UNet's up path that read [deep, skip]: how many channels `deep` has.

    The deep part of the first is what the middle (or the block before) gives out; of every other, what the residual
    block before it gives out. A block of space and time reads it with its spatial half.
    """
    borders: dict[str, int] = {}
    deep = _channels_into_up_path(root)
    for block_path, block in _children(root, "up_blocks"):
        for path, resnet in _children(block, "resnets"):
            spatial = ".spatial_res_block" if hasattr(resnet, "spatial_res_block") else ""
            if deep is not None and 0 < deep < _spatial(resnet).in_channels:
                borders[f"{block_path}.{path}{spatial}"] = deep
            deep = _spatial(resnet).out_channels
    return borders


def _spatial(resnet: Any) -> Any:
    return getattr(resnet, "spatial_res_block", resnet)


def _children(owner: Any, name: str) -> Iterator[tuple[str, Any]]:
    for index, child in enumerate(getattr(owner, name, None) or []):
        yield f"{name}.{index}", child


def _channels_into_up_path(root: Any) -> int | None:
    down = [block for _, block in _children(root, "down_blocks")]
    for block in [getattr(root, "mid_block", None), *reversed(down)]:
        resnets = list(getattr(block, "resnets", None) or [])
        if resnets:
            return _spatial(resnets[-1]).out_channels
    return None


def _border(path: str, borders: dict[str, int]) -> int | None:
    """Of the two layers that read a residual block's input."""
    owner, _, name = path.rpartition(".")
    return borders.get(owner) if name in ("conv_shortcut", "conv1") else None
