"""Trainings around one frozen teacher: making images from it alone, or teaching with them; several optimisers.

Optimisation is manual. Of all optimisers' steps only the last of a training step goes through Lightning, so that the
trainer counts training steps, whatever happens within one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from parediff.training.base import generator_of, seed_of


class Diverged(RuntimeError):
    """A loss that is no number, a generator that makes one class only: there is nothing left to learn from."""


class ManualTraining(pl.LightningModule, ABC):
    """A training around a frozen `teacher`, which is kept out of the module tree: nobody trains, moves or saves it.

    Everything random is a function of (seed, step), so that a resumed training repeats the uninterrupted one.
    """

    def __init__(self, teacher: nn.Module, *, seed: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self._teacher = [teacher.eval().requires_grad_(False)]
        self.seed = seed

    @property
    def teacher(self) -> nn.Module:
        return self._teacher[0]

    def on_fit_start(self) -> None:
        self.teacher.to(self.device)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        torch.manual_seed(seed_of(self.seed, self.global_step))  # for what has no generator of its own
        values = self.step(batch, generator_of(self.seed, self.global_step))
        self.log_dict({f"train/{name}": value for name, value in values.items()}, prog_bar=True, batch_size=1)

    @abstractmethod
    def step(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """One training step, optimisers and schedules included; what to log of it."""

    def settle(self) -> None:
        """What counts afterwards, where that is not what stands."""

    def given_optimizers(self) -> list[Any]:
        """As configured, behind Lightning's wrappers."""
        found = self.optimizers()
        return list(found) if isinstance(found, list) else [found]

    def given_schedules(self) -> list[Any]:
        found = self.lr_schedulers()
        return list(found) if isinstance(found, list) else [found]

    @property
    def total(self) -> int:
        """Steps of the whole training."""
        return int(self.trainer.max_steps)


class Synthesis(ManualTraining, ABC):
    """Learns from the teacher alone: there is no data, only steps."""

    def train_dataloader(self) -> Any:
        """One empty batch for each step that is left."""
        return DataLoader(range(self.trainer.global_step, self.total))  # type: ignore[arg-type]


def descend(loss: Tensor, *optimizers: Any, counted: bool) -> None:
    """One step down `loss` for the optimisers' own parameters; no gradient is left anywhere else.

    `counted`: the last of them goes through Lightning, as the last step of a training step does.
    """
    if not bool(torch.isfinite(loss.detach())):
        raise Diverged(f"the loss became {float(loss.detach())}")
    inner = [getattr(optimizer, "optimizer", optimizer) for optimizer in optimizers]
    groups = [group for optimizer in inner for group in optimizer.param_groups]
    parameters = [p for group in groups for p in group["params"] if p.requires_grad]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    for optimizer in inner[:-1]:
        optimizer.step()
    (optimizers[-1] if counted else inner[-1]).step()
    for parameter in parameters:
        parameter.grad = None


def stepped(optimizer: torch.optim.Optimizer, total: int, shares: Sequence[float]) -> Any:
    """The rate falls tenfold at each share of `total` steps, first for the step of that index (from 0)."""
    milestones = [max(1, round(share * total)) for share in shares]
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.1)
