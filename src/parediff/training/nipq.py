"""NIPQ's training: noise and a bit budget first, then frozen bits and true rounding (Shin et al., 2022, section 4)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from parediff.errors import RequestError
from parediff.quantization.allocation import allocate
from parediff.quantization.budget import Budget
from parediff.quantization.noise import quantizers
from parediff.training.base import Learner, seed_of
from parediff.training.batchnorm import reestimate
from parediff.training.ema import EMA
from parediff.training.objectives import Objective

OptimizerName = Literal["sgd", "adamw"]


class NoiseTraining(Learner):
    """Phase 1 adds noise and learns weights, boundaries and bits; phase 2, the last `rounding_share`, rounds.

    At the switch the bits are frozen and leave the optimiser, and the average starts anew. At the end the statistics of
    BatchNorm are taken over `norm_batches` training batches as the averaged, rounding network computes them.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        budget: Budget,
        *,
        rounding_share: float,
        optimizer: OptimizerName,
        quantizer_learning_rate: float,
        bits_learning_rate: float,
        norm_batches: int,
        **settings: Any,
    ) -> None:
        network.train().requires_grad_(True)
        super().__init__(network, **settings)
        self.objective, self.budget = objective, budget
        self.rounding_share, self.optimizer = rounding_share, optimizer
        self.quantizer_learning_rate, self.bits_learning_rate = quantizer_learning_rate, bits_learning_rate
        self.norm_batches = norm_batches
        for quantizer in quantizers(network):
            quantizer.requires_grad_(quantizer.on)

    @property
    def rounds(self) -> bool:
        """Whether phase 2 has begun; known from the network's own buffers."""
        return all(bool(quantizer.rounding) for quantizer in quantizers(self.network))

    @property
    def switch_step(self) -> int:
        """The first step of phase 2; both phases have at least one, unless rounding has all of them."""
        steps = int(self.trainer.max_steps)
        if self.rounding_share == 1:
            return 0
        return steps - min(max(1, round(self.rounding_share * steps)), steps - 1)

    def loss(self, batch: Any, generator: torch.Generator) -> Tensor:
        task = self.objective.loss(self.network, batch, generator)
        if self.rounds:
            return task
        self.log("train/budget", self.budget.value(), prog_bar=True)
        return task + self.budget.penalty().to(task)

    def validate_batch(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        return self.objective.judge(self.network, batch, generator)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Kernels decay, vectors do not; boundaries and bits have rates of their own. The bits' group comes last."""
        bits, clips = [q.theta_bits for q in quantizers(self.network)], [q.theta_clip for q in quantizers(self.network)]
        apart = {id(parameter) for parameter in bits + clips}
        trained = [p for p in self.network.parameters() if p.requires_grad and id(p) not in apart]
        return [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
            {
                "params": [p for p in clips if p.requires_grad],
                "lr": self.quantizer_learning_rate,
                "weight_decay": 0.0,
            },
            {
                "params": [] if self.rounds else [p for p in bits if p.requires_grad],
                "lr": self.bits_learning_rate,
                "weight_decay": 0.0,
            },
        ]

    def configure_optimizers(self) -> Any:
        groups = self.parameter_groups()
        optimizer: torch.optim.Optimizer
        if self.optimizer == "sgd":
            optimizer = torch.optim.SGD(groups, lr=self.learning_rate, momentum=0.9, nesterov=True)
        else:
            optimizer = torch.optim.AdamW(groups, lr=self.learning_rate)
        schedule = LambdaLR(optimizer, lambda step: max(1e-3, self.rate_factor(step)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_fit_start(self) -> None:
        self.objective.teacher.to(self.device)
        if self.trainer.max_steps < 2:
            accepted = "at least 2 steps are accepted, one for each phase"
            raise RequestError("trainer.max_steps", self.trainer.max_steps, accepted)

    def on_train_start(self) -> None:
        """A checkpoint of the other phase than its step belongs to was written under another plan."""
        step, switch = self.global_step, self.switch_step
        if (self.rounds and step <= switch) or (not self.rounds and step > switch):
            phase = "rounding" if self.rounds else "noise"
            accepted = f"phase 2 begins at step {switch} here; a checkpoint written with the same max_steps and share"
            raise RequestError("ckpt_path", f"step {step} in the {phase} phase", accepted)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        if self.global_step >= self.switch_step and not self.rounds:
            self._switch(batch)

    def _switch(self, batch: Any) -> None:
        """Widths onto the budget, noise off, bits frozen and out of the optimiser with their momenta, the average anew.

        What matters least to the network's output, as this batch meets it, gives way first. A missed budget raises.
        """
        allocate(self.network, self.budget, lambda: self._output(batch))
        for quantizer in quantizers(self.network):
            quantizer.freeze()
            quantizer.theta_bits.requires_grad_(False)
        optimizer: Any = self.optimizers()
        group = optimizer.param_groups[-1]
        for parameter in group["params"]:
            optimizer.state.pop(parameter, None)
            parameter.grad = None
        group["params"] = []
        self.ema = EMA(self.network, self.ema.decay)

    def _output(self, batch: Any) -> Tensor:
        """What the network gives out for a batch, the same every time."""
        seen: list[Tensor] = []
        hook = self.network.register_forward_hook(lambda _, __, output: seen.append(_tensor(output)))
        try:
            self.objective.loss(self.network, batch, torch.Generator().manual_seed(seed_of(self.seed, -2)))
        finally:
            hook.remove()
        return seen[0]

    def on_fit_end(self) -> None:
        """BatchNorm's statistics as the network now rounds; the average keeps them."""
        if not self.rounds:
            return
        self.ema.copy_to(self.network)
        if reestimate(self.network, self._images()):
            self.ema = EMA(self.network, self.ema.decay)

    def _images(self) -> Iterator[Tensor]:
        """Training batches in an order of its own, without augmentation."""
        data: Any = getattr(self.trainer, "datamodule", None)
        if data is None:
            raise RequestError("data", "null", "BatchNorm's statistics are taken from training data")
        generator = torch.Generator().manual_seed(seed_of(self.seed, -1))
        loader = DataLoader(data.train, batch_size=data.batch_size, shuffle=True, drop_last=True, generator=generator)
        for batch in islice(iter(loader), self.norm_batches):
            yield self.objective.inputs(batch).to(self.device)


def _tensor(output: Any) -> Tensor:
    """The first tensor of what a network gives out."""
    return output if isinstance(output, Tensor) else next(value for value in output if isinstance(value, Tensor))
