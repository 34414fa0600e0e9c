"""Models with random weights, for measuring speed where no checkpoint is at hand."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    DiffusionPipeline,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
)
from torch import nn

from parediff.models.diffusion.pipeline import DiffusionModel


def cifar_model() -> DiffusionModel:
    """The architecture of google/ddpm-cifar10-32, 35.7 M parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DModel(
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
        )
    return DiffusionModel(DDPMPipeline(unet, _scheduler()), name="random_cifar")


def latent_model() -> DiffusionModel:
    """A UNet of Stable Diffusion's type at a fifth of its width, 32x32 latents of 4 channels, 77 prompt tokens."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=32,
            block_out_channels=(64, 128, 256, 256),
            cross_attention_dim=256,
            attention_head_dim=8,
        )
        prompt = torch.randn(1, 77, 256)
    return DiffusionModel(
        LatentPipeline(unet, _scheduler(), {"encoder_hidden_states": prompt}, (4, 32, 32)), name="random_sd"
    )


def dit_model() -> DiffusionModel:
    """DiT-S/2 on 32x32 latents: 12 blocks of width 384, 256 tokens; its class stands for the prompt."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = DiTTransformer2DModel(
            num_attention_heads=6,
            attention_head_dim=64,
            in_channels=4,
            out_channels=4,
            num_layers=12,
            sample_size=32,
            patch_size=2,
            num_embeds_ada_norm=1000,
        )
    given = {"class_labels": torch.zeros(1, dtype=torch.long)}
    return DiffusionModel(LatentPipeline(network, _scheduler(), given, (4, 32, 32)), name="random_dit")


def flux_model() -> DiffusionModel:
    """Flux's type at an eighth of its width: 3 joint and 6 single-stream blocks, 256 image and 64 text tokens."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = FluxTransformer2DModel(
            patch_size=1,
            in_channels=64,
            num_layers=3,
            num_single_layers=6,
            attention_head_dim=64,
            num_attention_heads=6,
            joint_attention_dim=384,
            pooled_projection_dim=384,
            axes_dims_rope=(8, 28, 28),
        )
        given = {"encoder_hidden_states": torch.randn(1, 64, 384), "pooled_projections": torch.randn(1, 384)}
    rows = torch.cartesian_prod(torch.zeros(1), torch.arange(16.0), torch.arange(16.0))
    shared = {"img_ids": rows, "txt_ids": torch.zeros(64, 3)}
    pipeline = LatentPipeline(network, FlowMatchEulerDiscreteScheduler(shift=3.0), given, (256, 64), shared)
    return DiffusionModel(pipeline, name="random_flux")


class LatentPipeline(DiffusionPipeline):
    """Text-to-latents without the text: every prompt is the same random condition `given`, one a batch `shared`."""

    def __init__(
        self,
        network: nn.Module,
        scheduler: Any,
        given: dict[str, torch.Tensor],
        shape: tuple[int, ...],
        shared: dict[str, torch.Tensor] | None = None,
    ) -> None:
        super().__init__()
        part = "unet" if isinstance(network, UNet2DConditionModel) else "transformer"
        self.register_modules(scheduler=scheduler, **{part: network})
        self.part, self.given, self.shape, self.shared = part, given, shape, shared or {}

    @torch.no_grad()
    def __call__(self, prompt: list[str], num_inference_steps: int, generator: Any, output_type: str) -> Any:
        from diffusers.utils import BaseOutput
        from diffusers.utils.torch_utils import randn_tensor

        network, count = getattr(self, self.part), len(prompt)
        self.scheduler.set_timesteps(num_inference_steps)
        start = getattr(self.scheduler, "init_noise_sigma", 1.0)
        x = randn_tensor((count, *self.shape), generator=generator) * start
        given = {name: value.expand(count, *value.shape[1:]) for name, value in self.given.items()} | self.shared
        for t in self.scheduler.timesteps:
            scaled = self.scheduler.scale_model_input(x, t) if hasattr(self.scheduler, "scale_model_input") else x
            output = network(scaled, timestep=t.expand(count), **given, return_dict=False)[0]
            x = self.scheduler.step(output, t, x).prev_sample
        return BaseOutput(images=x)


def _scheduler() -> DDIMScheduler:
    return DDIMScheduler(num_train_timesteps=1000, clip_sample=True)
