"""What the tests of feature reuse share: published architectures on the meta device, and a run driven by hand.

An architecture is built once: tests only ask what it costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from diffusers import DiTTransformer2DModel, UNet2DConditionModel, UNet2DModel
from torch import Tensor, nn

import tiny
from parediff.cost import counting
from parediff.methods.deepcache import DeepCache
from parediff.methods.frdiff import FRDiff
from parediff.models.diffusion.door import Run, call_network
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.reuse.engine import Reuse, Reuser, Step

META = torch.device("meta")


def frdiff(**options: Any) -> FRDiff:
    defaults: dict[str, Any] = {
        "interval": 2,
        "keyframes": "uniform",
        "center": 15,
        "power": 1.4,
        "first_full": 1,
        "last_full": 0,
        "mixing": "hard",
        "temperature": 30,
        "bias": 0.5,
        "resnets": True,
        "attentions": True,
        "mlps": False,
        "blocks": "parts",
    }
    return FRDiff(**(defaults | options))


def deepcache(**options: Any) -> DeepCache:
    defaults: dict[str, Any] = {
        "interval": 3,
        "keyframes": "uniform",
        "center": 15,
        "power": 1.4,
        "first_full": 1,
        "last_full": 0,
        "branch": 1,
    }
    return DeepCache(**(defaults | options))


def with_method(model: DiffusionModel, method: Any) -> DiffusionModel:
    student = model.copy()
    method.prepare(student)
    return student


def by_hand(
    model: DiffusionModel, steps: Sequence[Step], find: Any = None, extrapolation: float = 0.0
) -> tuple[Reuser, Run]:
    """The wrapper of a run that the test advances itself."""
    scheduler = tiny.scheduler()
    scheduler.set_timesteps(len(steps))
    run = Run(scheduler, (0,), [], model)
    find = find or frdiff()._cuts
    return Reuse("test", find, lambda _, __, ___: list(steps), extrapolation)(run), run


def macs_per_call(denoiser: nn.Module, method: Any, steps: int, inputs: Sequence[Tensor], cond: dict[str, Any]) -> Any:
    """(MACs of every step with a network call, in order; their counters) of a run of `method` on the meta device."""
    x, t = inputs
    scheduler = tiny.scheduler()
    scheduler.set_timesteps(steps)
    stand = _Stand(denoiser)
    reuser = Reuse("test", method._cuts, method._plan)(Run(scheduler, (0,), [], stand))  # type: ignore[arg-type]
    counters = []

    def network(x: Tensor, t: Tensor, cond: Any) -> Tensor:
        with counting(denoiser) as counter, torch.no_grad():
            output = call_network(denoiser, denoiser, x, t, cond)
        counters.append(counter)
        return output

    for _ in range(steps):
        reuser(network, x, t, cond)
        reuser.run.advance()
    return counters


class _Stand:
    """As much of a model as a run needs."""

    def __init__(self, denoiser: nn.Module) -> None:
        self.denoiser, self.pipeline = denoiser, None


@cache
def cifar_unet() -> UNet2DModel:
    """The architecture of google/ddpm-cifar10-32."""
    with META:
        return UNet2DModel(
            sample_size=32,
            freq_shift=1,
            flip_sin_to_cos=False,
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(128, 256, 256, 256),
            layers_per_block=2,
            attention_head_dim=None,
            norm_num_groups=32,
            downsample_padding=0,
        ).eval()


@cache
def ldm4_unet() -> UNet2DConditionModel:
    """LDM-4 for ImageNet (cin256-v2): 64x64x3 latents, one class token of width 512."""
    with META:
        return UNet2DConditionModel(
            sample_size=64,
            in_channels=3,
            out_channels=3,
            block_out_channels=(192, 384, 576, 960),
            down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * 3),
            up_block_types=(*("CrossAttnUpBlock2D",) * 3, "UpBlock2D"),
            layers_per_block=2,
            cross_attention_dim=512,
            attention_head_dim=(6, 12, 18, 30),
        ).eval()


@cache
def sd_unet() -> UNet2DConditionModel:
    """Stable Diffusion v1.4."""
    with META:
        return UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8).eval()


@cache
def dit_xl() -> DiTTransformer2DModel:
    """DiT-XL/2 at 256 pixels."""
    with META:
        return DiTTransformer2DModel(
            num_attention_heads=16,
            attention_head_dim=72,
            in_channels=4,
            out_channels=8,
            num_layers=28,
            sample_size=32,
            num_embeds_ada_norm=1000,
        ).eval()


def meta_inputs(channels: int, side: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(1, channels, side, side, device=META), torch.zeros(1, device=META)


def meta_context(tokens: int, width: int) -> dict[str, Any]:
    return {"encoder_hidden_states": torch.zeros(1, tokens, width, device=META)}
