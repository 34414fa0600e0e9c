"""Models with random weights, for measuring speed where no checkpoint is at hand."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMPipeline, DiffusionPipeline, UNet2DConditionModel, UNet2DModel
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
    return DiffusionModel(LatentPipeline(unet, _scheduler(), prompt), name="random_sd")


class LatentPipeline(DiffusionPipeline):
    """Text-to-latents without the text: every prompt is the same random embedding."""

    def __init__(self, unet: nn.Module, scheduler: Any, prompt: torch.Tensor) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.embedding = prompt

    @torch.no_grad()
    def __call__(self, prompt: list[str], num_inference_steps: int, generator: Any, output_type: str) -> Any:
        from diffusers.utils import BaseOutput
        from diffusers.utils.torch_utils import randn_tensor

        self.scheduler.set_timesteps(num_inference_steps)
        size = self.unet.config.sample_size
        x = randn_tensor((len(prompt), 4, size, size), generator=generator) * self.scheduler.init_noise_sigma
        context = self.embedding.expand(len(prompt), -1, -1)
        for t in self.scheduler.timesteps:
            scaled = self.scheduler.scale_model_input(x, t)
            output = self.unet(scaled, t, encoder_hidden_states=context, return_dict=False)[0]
            x = self.scheduler.step(output, t, x).prev_sample
        return BaseOutput(images=x)


def _scheduler() -> DDIMScheduler:
    return DDIMScheduler(num_train_timesteps=1000, clip_sample=True)
