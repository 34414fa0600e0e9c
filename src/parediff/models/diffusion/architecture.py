"""What a training starts from: an untrained diffusion model described in YAML, and how it is saved."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import nn

from parediff.errors import RequestError, nearest


class UNetArchitecture:
    """A diffusers `UNet2DModel` and the noise schedule it learns on, saved as a stock diffusers pipeline."""

    def __init__(self, *, unet: dict[str, Any], scheduler: dict[str, Any], seed: int) -> None:
        from diffusers import DDPMScheduler, UNet2DModel

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network: nn.Module = _built("unet", UNet2DModel, unet)
        self.scheduler = _built("scheduler", DDPMScheduler, scheduler)

    def parts(self) -> dict[str, Any]:
        """What its learner needs."""
        return {"network": self.network, "scheduler": self.scheduler}

    def check(self, image_shape: tuple[int, int, int], classes: int) -> None:
        """That images C,H,W with so many classes fit, before anything is trained."""
        config: Any = self.network.config
        channels, height, width = image_shape
        size = config.sample_size if isinstance(config.sample_size, list | tuple) else (config.sample_size,) * 2
        if (config.in_channels, config.out_channels) != (channels, channels):
            raise RequestError("unet.in_channels", config.in_channels, f"{channels}, as the images have")
        if tuple(size) != (height, width):
            raise RequestError("unet.sample_size", config.sample_size, f"{height}x{width}, as the images")
        if config.num_class_embeds is not None and config.num_class_embeds < classes:
            raise RequestError("unet.num_class_embeds", config.num_class_embeds, f"at least {classes}")

    def save(self, folder: Path) -> None:
        from diffusers import DDPMPipeline

        DDPMPipeline(self.network, self.scheduler).save_pretrained(folder, safe_serialization=True)


def _built(key: str, kind: Any, arguments: dict[str, Any]) -> Any:
    """`kind(**arguments)`; diffusers ignores what it does not know, here it is an error."""
    known = list(signature(kind.__init__).parameters)[1:]
    for name in arguments:
        if name not in known:
            why = f"no argument of {kind.__name__}.{nearest(name, known)}"
            raise RequestError(f"{key}.{name}", arguments[name], why)
    try:
        return kind(**arguments)
    except (TypeError, ValueError) as error:
        raise RequestError(f"{key}", kind.__name__, " ".join(str(error).split())[:200]) from error
