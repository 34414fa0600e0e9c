"""A classifier seen as methods see a diffusion model: a network behind a door, here one that opens once per image."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from parediff.errors import RequestError
from parediff.models.diffusion.door import Call, Condition, Observer


class ClassifierModel:
    """`denoiser` is the classifier: what gets compressed has this name everywhere. Images are NCHW in [-1, 1]."""

    conditioning = "none"
    guidance_scale = 1.0
    num_classes: int | None = None

    def __init__(self, network: nn.Module, *, name: str) -> None:
        self.denoiser, self.name = network.eval().requires_grad_(False), name
        self.observers: list[Observer] = []

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(p.dtype for p in self.denoiser.parameters() if p.is_floating_point())

    def to(self, device: str | torch.device) -> ClassifierModel:
        self.denoiser.to(device)
        return self

    def copy(self) -> ClassifierModel:
        """A model with a network of its own."""
        return ClassifierModel(copy.deepcopy(self.denoiser), name=self.name)

    def wrap(self, factory: Callable[..., Any]) -> None:
        """There is no sampling run to wrap."""
        raise RequestError("method", self.name, "a method without sampling steps is accepted for a classifier")

    def predict(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """Logits [B, classes]; a classifier has no time."""
        logits = self.denoiser(x)
        for observe in self.observers:
            observe(Call(x, t, cond, 0), logits)
        return logits

    def call(self, images: Tensor) -> Call:
        """The images as a recorded call."""
        return Call(images, torch.zeros(len(images), device=images.device), {}, 0)
