"""Images fitted to a classifier: the pixels themselves (ZeroQ, IntraQ), or codes and a generator (GENIE)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ExponentialLR, ReduceLROnPlateau

from parediff.models.classifiers.build import faster
from parediff.models.classifiers.generators import PlainGenerator, Shape
from parediff.models.classifiers.networks import as_images
from parediff.models.classifiers.probes import look
from parediff.models.classifiers.statistics import deviation_loss, input_loss, per_image_loss
from parediff.models.tree import put
from parediff.training.augmentations import mirrored
from parediff.training.base import seed_of
from parediff.training.synthesis import Synthesis, descend


class ImageLoss(ABC):
    """What pixels descend."""

    @abstractmethod
    def __call__(self, teacher: nn.Module, normalised: Tensor, generator: torch.Generator) -> Tensor:
        """Of images in the teacher's normalised space [N, C, H, W]."""


class MatchEachImage(ImageLoss):
    """ZeroQ: every image by itself has the statistics of every BatchNorm (V2), and a normalised input of its own."""

    def __call__(self, teacher: nn.Module, normalised: Tensor, generator: torch.Generator) -> Tensor:
        seen = look(teacher, as_images(teacher, normalised))
        return per_image_loss(seen.norm_inputs) + standardised(teacher, normalised)


class PixelFitting(Synthesis):
    """A batch of images is the parameter: Adam, with a rate that falls where the loss no longer does."""

    def __init__(
        self,
        teacher: nn.Module,
        loss: ImageLoss,
        start: Tensor,
        *,
        learning_rate: float,
        patience: int,
        least_rate: float,
        seed: int,
    ) -> None:
        super().__init__(teacher, seed=seed)
        self.images, self.loss = nn.Parameter(start.clone()), loss
        self.learning_rate, self.patience, self.least_rate = learning_rate, patience, least_rate

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam([self.images], lr=self.learning_rate)
        return [optimizer], [ReduceLROnPlateau(optimizer, patience=self.patience, min_lr=self.least_rate)]

    def step(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        loss = self.loss(self.teacher, self.images, generator)
        descend(loss, self.given_optimizers()[0], counted=True)
        self.given_schedules()[0].step(loss.detach())
        return {"loss": loss.detach()}

    def result(self) -> Tensor:
        return self.images.detach()


class CodeFitting(Synthesis):
    """GENIE-D: a fresh generator and fresh codes learn together; strided convolutions swing meanwhile.

    The result is the images of the last step, whose parameters are one update older than the final ones.
    """

    last: Tensor

    def __init__(
        self,
        teacher: nn.Module,
        shape: Shape,
        *,
        count: int,
        latent: int,
        code_rate: float,
        generator_rate: float,
        swing: bool,
        seed: int,
    ) -> None:
        super().__init__(teacher, seed=seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(seed, -1))
            self.generator = faster(PlainGenerator(shape, latent=latent))
            self.codes = nn.Parameter(torch.randn(count, latent))
        self.register_buffer("last", torch.zeros(count, *shape))
        self.code_rate, self.generator_rate, self.swing = code_rate, generator_rate, swing

    def configure_optimizers(self) -> Any:
        codes = torch.optim.Adam([self.codes], lr=self.code_rate)
        network = torch.optim.Adam(self.generator.parameters(), lr=self.generator_rate)
        schedules = [ReduceLROnPlateau(codes, patience=100, min_lr=1e-4), ExponentialLR(network, 0.95)]
        return [codes, network], schedules

    def step(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        codes, network = self.given_optimizers()
        images = self.generator(self.codes)
        with swinging(self.teacher, generator, on=self.swing):
            seen = look(self.teacher, as_images(self.teacher, images))
        loss = deviation_loss(seen.norm_inputs) + standardised(self.teacher, images)
        self.last.copy_(images.detach())
        descend(loss, network, codes, counted=True)
        self._slow_down(loss.detach())
        return {"loss": loss.detach()}

    def _slow_down(self, loss: Tensor) -> None:
        plateau, decay = self.given_schedules()
        plateau.step(loss)
        if self.global_step % 100 == 0:
            decay.step()

    def result(self) -> Tensor:
        return self.last


def standardised(teacher: nn.Module, normalised: Tensor) -> Tensor:
    """The input's own term; 0 for a network that does not normalise, whose inputs' mean and variance nobody stored."""
    return input_loss(normalised) if hasattr(teacher, "normalise") else normalised.new_zeros(())


class SwingConvolution(nn.Module):
    """GENIE: the input shifts by up to a pixel, with its mirror at the border, before a strided convolution.

    One of 9 offsets for the whole batch, drawn anew by every call; (1, 1) is the plain convolution.
    """

    def __init__(self, convolution: nn.Conv2d, generator: torch.Generator) -> None:
        super().__init__()
        self.convolution, self.generator = convolution, generator

    def forward(self, x: Tensor) -> Tensor:
        top, left = torch.randint(0, 3, (2,), generator=self.generator).tolist()
        return self.convolution(shifted_by(x, top, left))


def shifted_by(x: Tensor, top: int, left: int) -> Tensor:
    """x [N, C, H, W] padded by its mirror and cropped back to H, W at (top, left) from {0, 1, 2}^2."""
    height, width = x.shape[-2:]
    return mirrored(x, 1, 1)[..., top : top + height, left : left + width]


@contextmanager
def swinging(network: nn.Module, generator: torch.Generator, *, on: bool) -> Iterator[None]:
    """Every strided convolution of the network swings while the block runs."""
    modules = list(network.named_modules()) if on else []
    strided = {p: m for p, m in modules if isinstance(m, nn.Conv2d) and m.stride != (1, 1)}
    for path, convolution in strided.items():
        put(network, path, SwingConvolution(convolution, generator))
    try:
        yield
    finally:
        for path, convolution in strided.items():
            put(network, path, convolution)
