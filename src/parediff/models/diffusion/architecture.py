"""What a training starts from: an untrained diffusion model described in YAML, and how it is saved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from torch import nn

from parediff.errors import RequestError, nearest
from parediff.models.diffusion.conditioning import keep_labels
from parediff.validation import Seed

Arguments = Annotated[dict[str, Any], "arguments of diffusers' class"]
SchedulerArguments = Annotated[dict[str, Any], "arguments of diffusers' DDPMScheduler"]
InitialSeed = Annotated[Seed, "of the untrained weights"]


class DenoiserArchitecture(ABC):
    """A denoiser of pixels and the noise schedule it learns on, saved as a stock diffusers pipeline.

    The pipeline is diffusers' plain one, whose denoiser is called `unet` whatever its class.
    """

    key: ClassVar[str]
    class_key: ClassVar[str]

    def __init__(self, arguments: dict[str, Any], scheduler: dict[str, Any], seed: int) -> None:
        from diffusers import DDPMScheduler

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = self._network(arguments)
        self.scheduler = _built("scheduler", DDPMScheduler, scheduler)

    @abstractmethod
    def _network(self, arguments: dict[str, Any]) -> nn.Module:
        """The untrained network; what it draws comes from the seed."""

    def parts(self) -> dict[str, Any]:
        """What its learner needs."""
        return {"network": self.network, "scheduler": self.scheduler}

    def check(self, image_shape: tuple[int, int, int], classes: int) -> None:
        """That images C,H,W with so many classes fit, before anything is trained."""
        config: Any = self.network.config
        channels, height, width = image_shape
        size = config.sample_size if isinstance(config.sample_size, list | tuple) else (config.sample_size,) * 2
        known = config.get(self.class_key)
        if (config.in_channels, config.out_channels) != (channels, channels):
            raise RequestError(f"{self.key}.in_channels", config.in_channels, f"{channels}, as the images have")
        if tuple(size) != (height, width):
            raise RequestError(f"{self.key}.sample_size", config.sample_size, f"{height}x{width}, as the images")
        if known is not None and known < classes:
            raise RequestError(f"{self.key}.{self.class_key}", known, f"at least {classes}")

    def save(self, folder: Path, data: str) -> None:
        """A stock pipeline, which has no place for the name of the data; config.yaml beside it has."""
        from diffusers import DDPMPipeline

        network: Any = self.network
        DDPMPipeline(network, self.scheduler).save_pretrained(folder, safe_serialization=True)


class UNetArchitecture(DenoiserArchitecture):
    """A diffusers `UNet2DModel`."""

    key = "unet"
    class_key = "num_class_embeds"

    def __init__(self, *, unet: Arguments, scheduler: SchedulerArguments, seed: InitialSeed) -> None:
        super().__init__(unet, scheduler, seed)

    def _network(self, arguments: dict[str, Any]) -> nn.Module:
        from diffusers import UNet2DModel

        return _built(self.key, UNet2DModel, arguments)


class TransformerArchitecture(DenoiserArchitecture):
    """A diffusers `DiTTransformer2DModel`, initialised as in Peebles and Xie, 2022: every block begins as identity."""

    key = "transformer"
    class_key = "num_embeds_ada_norm"

    def __init__(self, *, transformer: Arguments, scheduler: SchedulerArguments, seed: InitialSeed) -> None:
        super().__init__(transformer, scheduler, seed)

    def _network(self, arguments: dict[str, Any]) -> nn.Module:
        from diffusers import DiTTransformer2DModel

        network = _built(self.key, DiTTransformer2DModel, arguments)
        network.apply(_initialise)
        for layer in (*(block.norm1.linear for block in network.transformer_blocks), network.proj_out_1):
            nn.init.zeros_(layer.weight)  # scales, shifts and gates
        nn.init.zeros_(network.proj_out_2.weight)
        keep_labels(network)
        return network


def _initialise(module: nn.Module) -> None:
    """Xavier for matrices and patches, normal(0.02) for labels; biases are zero."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.xavier_uniform_(module.weight.view(len(module.weight), -1))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)


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
