"""scikit-learn's digits: 1,797 real 8x8 scans."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from parediff.data.base import Images
from parediff.data.split import HeldOut, SplitSeed, split


class Digits(Images):
    """One channel, 8x8, ten classes; the split keeps the share of every class."""

    name = "digits"
    image_shape = (1, 8, 8)
    classes = [str(digit) for digit in range(10)]

    def __init__(self, *, held_out: HeldOut, split_seed: SplitSeed, **loading: Any) -> None:
        super().__init__(**loading)
        self.held_out_share, self.split_seed = held_out, split_seed
        (images, labels), (held_images, held_labels) = split_digits(held_out, split_seed)
        self._train = TensorDataset(images, labels)
        self._held_out = TensorDataset(held_images, held_labels)

    @property
    def train(self) -> Dataset[Any]:
        return self._train

    @property
    def held_out(self) -> Dataset[Any]:
        return self._held_out


def split_digits(held_out: float, seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(images [N, 1, 8, 8] in [-1, 1], labels [N]) for training and held out, every class in proportion."""
    from sklearn.datasets import load_digits

    scans = load_digits()
    images = torch.from_numpy(np.asarray(scans.images, dtype=np.float32) / 8 - 1)[:, None]  # 0..16 -> [-1, 1]
    labels = torch.from_numpy(np.asarray(scans.target, dtype=np.int64))
    kept, held = split(labels.tolist(), held_out, seed)
    return (images[kept], labels[kept]), (images[held], labels[held])
