"""The shape of every data module: two datasets, fixed by seed, and batches that are a function of the step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from parediff.errors import RequestError


class Images(pl.LightningDataModule, ABC):
    """`.train` and `.held_out` yield (image CHW float in [-1, 1], label int); the split is fixed by `seed`."""

    name: str
    image_shape: tuple[int, int, int]
    classes: list[str]

    def __init__(self, *, batch_size: int, seed: int, workers: int, flip: bool) -> None:
        super().__init__()
        if batch_size < 1:
            raise RequestError("batch_size", batch_size, "a whole number of at least 1")
        if workers < 0:
            raise RequestError("workers", workers, "a whole number of at least 0")
        self.batch_size, self.seed, self.workers, self.flip = batch_size, seed, workers, flip

    @property
    @abstractmethod
    def train(self) -> Dataset[Any]:
        """What is learned from."""

    @property
    @abstractmethod
    def held_out(self) -> Dataset[Any]:
        """What is only looked at."""

    def train_dataloader(self) -> DataLoader[Any]:
        """The batches from the trainer's present step to its last: all of training is one pass over this loader."""
        if self.trainer is None:
            raise RuntimeError("train_dataloader belongs to a trainer; iterate over .train otherwise")
        steps = range(self.trainer.global_step, int(self.trainer.max_steps))
        rank, world = self.trainer.global_rank, self.trainer.world_size
        count = len(self.train)  # type: ignore[arg-type]
        batches = StepBatches(count, self.batch_size, self.seed, steps, share=(rank, world))
        return DataLoader(self.train, batch_sampler=batches, num_workers=self.workers)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.held_out, batch_size=self.batch_size, num_workers=self.workers)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if not self.flip or self.trainer is None or not self.trainer.training:
            return batch
        images, labels = batch
        mine = self.trainer.global_rank * 7_919  # each process its own; one alone as ever
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.trainer.global_step + mine)
        mirrored = torch.rand(len(images), generator=generator).to(images.device) < 0.5
        return torch.where(mirrored[:, None, None, None], images.flip(-1), images), labels


class StepBatches(Sampler[list[int]]):
    """Batch k of endless reshuffled passes, for k in `steps`: a function of (seed, k), so resuming needs no state.

    `share`: (which, of how many) processes this one is; each has an equal part of every batch.
    """

    def __init__(self, count: int, batch_size: int, seed: int, steps: range, share: tuple[int, int] = (0, 1)) -> None:
        if batch_size % share[1]:
            raise RequestError("trainer.devices", share[1], f"a divisor of data.batch_size={batch_size}")
        self.count, self.batch_size, self.seed, self.steps, self.share = count, batch_size, seed, steps, share

    def __len__(self) -> int:
        return self.steps.stop

    def __iter__(self) -> Iterator[list[int]]:
        epoch, order = -1, torch.empty(0)
        for step in self.steps:
            batch: list[int] = []
            for position in range(step * self.batch_size, (step + 1) * self.batch_size):
                if position // self.count != epoch:
                    epoch, order = position // self.count, self._order(position // self.count)
                batch.append(int(order[position % self.count]))
            yield batch[self.share[0] :: self.share[1]]

    def _order(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return torch.randperm(self.count, generator=generator)
