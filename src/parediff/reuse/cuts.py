"""Where a denoiser is cut for feature reuse: before the time conditioning and before the skip (FRDiff, 2312.03517).

ResnetBlock2D                     conv1's output, bias included; norm1, its activation and resampling are skipped
Transformer2DModel in a UNet      the branch before its skip
Attention in a UNet               attention(x) before its skip and its rescaling
a transformer's blocks            see `transformer_cuts`
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import FunctionType
from typing import Any

from torch import Tensor, nn

from parediff.errors import RequestError
from parediff.models.diffusion.classes import Attention, ResnetBlock2D, Transformer2DModel
from parediff.models.tree import named
from parediff.reuse.replacements import (
    Cell,
    Cut,
    Keep,
    KeepBranch,
    KeepResidual,
    NoBatch,
    Patch,
    Put,
    Recall,
    RecallBranch,
    RecallResidual,
    Same,
)
from parediff.reuse.transformer_cuts import ATTENTION, Blocks, block_cuts, transformer_cuts

RESNET = "resnet"
LOOKED_FOR = "residual branches (of ResnetBlock2D or attention in a UNet, of a transformer's blocks in its lists)"


def cuts_of(denoiser: nn.Module, *, resnets: bool, attentions: bool, mlps: bool, blocks: Blocks = "parts") -> list[Cut]:
    """Every cut of the wanted kinds, in the order of the network's definition. Raises where there is none.

    `blocks` says how much of a transformer a cut holds: attention and feed-forward apart, whole blocks, or all of them.
    """
    wanted = {RESNET: resnets, ATTENTION: attentions, "mlp": mlps}
    if is_unet(denoiser):
        if blocks != "parts":
            raise RequestError("blocks", blocks, f"parts is accepted: {type(denoiser).__name__} is no transformer")
        cuts = [cut for cut in _unet_cuts(denoiser) if wanted[cut.kind]]
    elif blocks == "parts":
        cuts = list(transformer_cuts(denoiser, attentions=attentions, mlps=mlps))
    else:
        cuts = list(block_cuts(denoiser, blocks))
        if not cuts:
            accepted = f"parts is accepted: {type(denoiser).__name__} has no list of transformer blocks"
            raise RequestError("blocks", blocks, accepted)
    if not cuts:
        kinds = ", ".join(kind for kind, on in wanted.items() if on) or "none"
        accepted = f"a denoiser with {LOOKED_FOR} is accepted; wanted of these: {kinds}"
        raise RequestError("model", type(denoiser).__name__, accepted)
    return cuts


def is_unet(denoiser: nn.Module) -> bool:
    """Whether a network is made of residual blocks of convolutions."""
    return any(isinstance(module, ResnetBlock2D) for module in denoiser.modules())


def _unet_cuts(denoiser: nn.Module) -> Iterator[Cut]:
    build: dict[type[nn.Module], Callable[[nn.Module, str, Any], Cut]] = {
        ResnetBlock2D: _resnet,
        Transformer2DModel: _transformer,
        Attention: _attention,
    }
    for path, module in named(denoiser, tuple(build)):
        kind = next(kind for kind in build if isinstance(module, kind))
        if _cuttable(module):
            yield build[kind](denoiser, path, module)


def _cuttable(module: Any) -> bool:
    """Attention with added keys always adds its own residual; a vector-quantised transformer has no skip."""
    if isinstance(module, Attention):
        return module.added_kv_proj_dim is None
    return not isinstance(module, Transformer2DModel) or bool(module.is_input_continuous)


def _owner(denoiser: nn.Module, path: str) -> tuple[nn.Module, str]:
    parent, _, name = path.rpartition(".")
    return denoiser.get_submodule(parent), name


def _resnet(_: nn.Module, path: str, block: Any) -> Cut:
    cell = Cell()
    nothing = Same(cell) if _resamples_by_filter(block) else NoBatch(cell)
    return Cut(
        path,
        RESNET,
        cell,
        keep=[Put(block, "conv1", Keep(cell, block.conv1))],
        recall=[Put(block, "conv1", Recall(cell)), Put(block, "norm1", nothing)],
    )


def _resamples_by_filter(block: Any) -> bool:
    """FIR resampling is a plain function that cannot take an empty batch."""
    return isinstance(block.upsample, FunctionType) or isinstance(block.downsample, FunctionType)


def _transformer(denoiser: nn.Module, path: str, module: Any) -> Cut:
    owner, name = _owner(denoiser, path)
    cell = Cell()
    branch = partial(_branch_alone, module)
    keep: list[Put | Patch] = [
        Put(owner, name, KeepBranch(cell, module)),
        Patch(module, "_get_output_for_continuous_inputs", branch),
    ]
    return Cut(path, ATTENTION, cell, keep, [Put(owner, name, RecallBranch(cell))])


def _branch_alone(module: Any, *, residual: Tensor, **kwargs: Any) -> Tensor:
    """The last stretch of a `Transformer2DModel` with nothing for a skip: adding 0 changes no value."""
    return type(module)._get_output_for_continuous_inputs(module, residual=0.0, **kwargs)


def _attention(denoiser: nn.Module, path: str, module: Any) -> Cut:
    owner, name = _owner(denoiser, path)
    cell, rescale = Cell(), module.rescale_output_factor
    if not module.residual_connection:
        return Cut(path, ATTENTION, cell, [Put(owner, name, Keep(cell, module))], [Put(owner, name, Recall(cell))])
    keep: list[Put | Patch] = [
        Put(owner, name, KeepResidual(cell, module, rescale)),
        Patch(module, "residual_connection", False),
        Patch(module, "rescale_output_factor", 1.0),
    ]
    return Cut(path, ATTENTION, cell, keep, [Put(owner, name, RecallResidual(cell, rescale))])
