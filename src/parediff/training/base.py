"""What every training shares: the average that is kept, parameter groups, learning rate, randomness by step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated, Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from parediff.models.finite import NotFinite, first_layer, is_finite
from parediff.training.ema import EMA
from parediff.validation import Below1, NonNegative, Positive, Seed, Whole, check_arguments

PLAN = "plan"
"""Under which a checkpoint says how long its training was to be, and how its rate was to fall."""


class Learner(pl.LightningModule, ABC):
    """Trains `network`; what counts afterwards is `ema.copy_to(network)`, which `fit` does at the end.

    Everything random is a function of (seed, step), so that a resumed training repeats the uninterrupted one.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        learning_rate: Annotated[Positive, "of AdamW, at its highest"],
        schedule: Literal["constant", "cosine", "linear", "inverse_sqrt"],
        warmup_steps: Annotated[Whole, "in which the rate rises"],
        weight_decay: Annotated[NonNegative, "of matrices and kernels"],
        ema_decay: Annotated[Below1, "of the averaged weights, which are kept"],
        seed: Annotated[Seed, "of what is random in the training"],
    ) -> None:
        super().__init__()
        given = {"learning_rate": learning_rate, "schedule": schedule, "warmup_steps": warmup_steps}
        given |= {"weight_decay": weight_decay, "ema_decay": ema_decay, "seed": seed}
        check_arguments(Learner.__init__, given)
        self.network = network
        self.learning_rate, self.schedule, self.warmup_steps = learning_rate, schedule, warmup_steps
        self.weight_decay = weight_decay
        self.seed = seed
        self.ema = EMA(network, ema_decay)
        self._raw: dict[str, Tensor] | None = None

    @abstractmethod
    def loss(self, batch: Any, generator: torch.Generator) -> Tensor:
        """The scalar that one optimiser step lowers."""

    def validate_batch(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """What to log of one held-out batch; averaged over batches."""
        return {"loss": self.loss(batch, generator)}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Matrices and kernels decay; biases, norms and other vectors do not."""
        trained = [p for p in self.network.parameters() if p.requires_grad]
        decayed = [p for p in trained if p.ndim > 1]
        free = [p for p in trained if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": self.weight_decay}, {"params": free, "weight_decay": 0.0}]
        return [group for group in groups if group["params"]]

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameter_groups(), lr=self.learning_rate, foreach=True)
        schedule = LambdaLR(optimizer, self.rate_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[PLAN] = {"schedule": self.schedule, "max_steps": int(self.trainer.max_steps)}

    def rate_factor(self, step: int) -> float:
        """The schedule's share of the learning rate at `step`."""
        return SCHEDULES[self.schedule](step, self.warmup_steps, int(self.trainer.max_steps))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        torch.manual_seed(self._step_seed())  # dropout has no generator of its own

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch, torch.Generator().manual_seed(self._step_seed()))
        if not is_finite(loss.detach()):
            raise NotFinite(self._where(batch))
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def _step_seed(self) -> int:
        """Of this step and, where several train together, of this process."""
        return seed_of(self.seed + 104_729 * self.global_rank, self.global_step)

    def _where(self, batch: Any) -> str:
        """The same loss once more, layer by layer: the first that is not finite."""
        layers: list[str] = []
        torch.manual_seed(self._step_seed())
        with torch.no_grad(), first_layer(self, layers.append):
            self.loss(batch, torch.Generator().manual_seed(self._step_seed()))
        layer = f"first in layer {layers[0]}" if layers else "in the loss itself: every layer's output is finite"
        return f"the loss of training step {self.global_step} is NaN or infinite: {layer}"

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.ema.update(self.network)  # here, and not at the end of the batch: checkpoints are written before that

    def settle(self) -> None:
        """What counts afterwards into the network, in eval mode."""
        self.ema.copy_to(self.network)
        self.network.eval()

    def on_validation_start(self) -> None:
        self._raw = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        self.ema.copy_to(self.network)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        for name, value in self.validate_batch(batch, generator_of(self.seed, -1 - batch_idx)).items():
            self.log(f"held_out/{name}", value, prog_bar=True, batch_size=len(batch[0]))

    def on_validation_end(self) -> None:
        if self._raw is not None:
            self.network.load_state_dict(self._raw)
            self._raw = None


def warmed_cosine(step: int, warmup: int, total: int) -> float:
    """Factor of the learning rate: linear from 1/warmup to 1, then half a cosine to 0 at `total`."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def warmed_linear(step: int, warmup: int, total: int) -> float:
    """Linear from 1/warmup to 1, then a straight line to 0 at `total`."""
    if step < warmup:
        return (step + 1) / warmup
    return max(0.0, 1 - (step - warmup) / max(1, total - warmup))


def warmed_constant(step: int, warmup: int, total: int) -> float:
    """Linear from 1/warmup to 1, where it stays: a longer training begins as a shorter one did."""
    return min(1.0, (step + 1) / max(1, warmup))


def warmed_inverse_sqrt(step: int, warmup: int, total: int) -> float:
    """Linear from 1/warmup to 1, then sqrt(warmup / (step + 1)), whatever `total` is (Vaswani et al., 2017, 5.3)."""
    return min((step + 1) / max(1, warmup), math.sqrt(max(1, warmup) / (step + 1)))


SCHEDULES: dict[str, Callable[[int, int, int], float]] = {
    "constant": warmed_constant,
    "cosine": warmed_cosine,
    "linear": warmed_linear,
    "inverse_sqrt": warmed_inverse_sqrt,
}
"""By name: (step, warm-up steps, all steps) -> factor of the learning rate."""


def prolonged(schedule: str, warmup: int, step: int, before: int, now: int) -> str:
    """What going on at `step` with `now` steps in all, where it was begun with `before`, does to the learning rate."""
    begun = f"max_steps={now}: the training was begun for {before} steps and goes on at step {step}"
    old, new = (SCHEDULES[schedule](step, warmup, total) for total in (before, now))
    if all(SCHEDULES[schedule](at, warmup, before) == SCHEDULES[schedule](at, warmup, now) for at in range(now + 1)):
        return f"{begun}; schedule={schedule} does not depend on their number: this is the longer training"
    return (
        f"{begun}; schedule={schedule} now ends at {now}: here the rate is {new:.3g} of its full value instead of "
        f"{old:.3g}, and the steps so far were taken along the other curve"
    )


def seed_of(seed: int, step: int) -> int:
    """One 63-bit seed per (seed, step); held-out batches use negative steps."""
    return (seed * 1_000_003 + step * 2_654_435_761 + 97) % (1 << 63)


def generator_of(seed: int, step: int) -> torch.Generator:
    """A CPU generator: the same draws on every device."""
    return torch.Generator().manual_seed(seed_of(seed, step))
