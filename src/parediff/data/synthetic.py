"""Images that a run made for itself, as a data module: what methods that train learn from instead of real ones."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from parediff.data.base import Images


class SyntheticImages(Images):
    """`images` [N, C, H, W] with `labels` [N]; nothing is held out, so what is looked at is what is learned from.

    `maker`: the training of the generator that made them, for those who let it go on.
    """

    name = "synthetic"

    def __init__(
        self, images: Tensor, labels: Tensor, classes: list[str], *, batch_size: int, seed: int, maker: Any | None
    ) -> None:
        super().__init__(batch_size=min(batch_size, len(images)), seed=seed, workers=0, flip=False)
        self._all = TensorDataset(images, labels)
        self.image_shape = (images.shape[1], images.shape[2], images.shape[3])
        self.classes, self.maker = classes, maker

    @property
    def train(self) -> Dataset[Any]:
        return self._all

    @property
    def held_out(self) -> Dataset[Any]:
        return self._all
