"""Learning to classify."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from parediff.training.base import Learner
from parediff.validation import Below1, Whole

Smoothing = Annotated[Below1, "share of a label that is spread over all classes"]
Shift = Annotated[Whole, "training images move by up to so many pixels"]


class Classification(Learner):
    """Cross-entropy with label smoothing; batches are (images NCHW in [-1, 1], labels), moved by whole pixels."""

    def __init__(self, network: nn.Module, *, label_smoothing: Smoothing, shift: Shift, **settings: Any) -> None:
        super().__init__(network, **settings)
        self.label_smoothing, self.shift = label_smoothing, shift

    def loss(self, batch: tuple[Tensor, Tensor], generator: torch.Generator) -> Tensor:
        images, labels = batch
        logits = self.network(shifted(images, self.shift, generator))
        return functional.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def validate_batch(self, batch: tuple[Tensor, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        images, labels = batch
        logits = self.network(images)
        hits = (logits.argmax(1) == labels).float().mean()
        return {"loss": functional.cross_entropy(logits, labels), "top1": 100 * hits}


def shifted(images: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Each image moved by up to `most` pixels in both directions, background (its own minimum, -1) drawn in."""
    if most == 0:
        return images
    height, width = images.shape[-2:]
    padded = functional.pad(images, (most,) * 4, value=-1.0)
    tops, lefts = torch.randint(0, 2 * most + 1, (2, len(images)), generator=generator).tolist()
    crops = [
        image[:, top : top + height, left : left + width] for image, top, left in zip(padded, tops, lefts, strict=True)
    ]
    return torch.stack(crops)
