"""Auto-FR's training: gates learned by gradient descent through the whole sampling, the weights frozen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

from parediff.errors import RequestError
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.reuse.learned import Gates, group_of
from parediff.reuse.mixing import Mixing
from parediff.reuse.prediction import from_noise, to_noise
from parediff.reuse.replacements import Cut, fill, standing_in, tensors_of
from parediff.training.base import Learner


class GateTraining(Learner):
    """Loss = mean squared error of the last latents + penalty · sum of relu(2 sigmoid(g) - 1).

    Every step computes everything and blends it, a · computed + (1 - a) · kept, with a = 0 or 1 in the forward pass and
    sigmoid(g)'s gradient in the backward pass. Only the tensors between two steps are stored; the network's own are
    computed again, with the step passed as an argument.
    """

    def __init__(
        self,
        gates: Gates,
        student: DiffusionModel,
        teacher: DiffusionModel,
        find: Callable[[nn.Module], list[Cut]],
        mixing: Mixing,
        *,
        student_sampler: Sampler,
        reference_sampler: Sampler,
        penalty: float,
        batch_size: int,
        learning_rate: float,
        seed: int,
    ) -> None:
        gates.logits.requires_grad_(True)
        settings: dict[str, Any] = {"schedule": "constant", "warmup_steps": 0, "weight_decay": 0.0, "ema_decay": 0.0}
        super().__init__(gates, learning_rate=learning_rate, seed=seed, **settings)
        self.gates, self.student, self.teacher = gates, student, teacher
        self.cuts, self.mixing = find(student.denoiser), mixing
        self.student_sampler, self.reference_sampler = student_sampler, reference_sampler
        self.penalty, self.batch_size = penalty, batch_size

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam([self.gates.logits], lr=self.learning_rate)

    def train_dataloader(self) -> Any:
        """One empty batch for each step that is left: what is learned from, the uncompressed model draws."""
        return DataLoader(range(self.trainer.global_step, self.trainer.max_steps))  # type: ignore[arg-type]

    def loss(self, batch: Any, generator: torch.Generator) -> Tensor:
        """Of `batch_size` images from noise."""
        x, cond = self._start(generator)
        with torch.no_grad():
            target = self.reference(x, cond)
        error = (self.sample(x, cond) - target).square().mean()
        if self.gates.keyframes is not None:
            return error
        return error + self.penalty * (2 * self.gates.logits.sigmoid() - 1).relu().sum()

    def _start(self, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        device, classes = self.student.device, self.student.num_classes
        drawn = torch.randn((self.batch_size, *self.student.sample_shape), generator=generator)
        x = drawn.to(device, self.student.dtype)
        if classes is None:
            return x, {}
        return x, {"class_labels": torch.randint(classes, (self.batch_size,), generator=generator).to(device)}

    def reference(self, x: Tensor, cond: dict[str, Tensor]) -> Tensor:
        """The uncompressed model's last latents."""
        scheduler = self._scheduler(self.teacher, self.reference_sampler)
        x = x * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            scaled = scheduler.scale_model_input(x, t)
            output = self.teacher.predict(scaled, t.expand(len(x)), cond)
            x = scheduler.step(_mean_of(output, x), t, x).prev_sample
        return x

    def sample(self, x: Tensor, cond: dict[str, Tensor]) -> Tensor:
        """The gated model's last latents, differentiable in the gates."""
        scheduler = self._scheduler(self.student, self.student_sampler)
        opened = self.gates.straight_through()
        x = x * scheduler.init_noise_sigma
        noise, kept = x.new_zeros(()), [x.new_zeros(())] * len(self.cuts)
        for step, t in enumerate(scheduler.timesteps):
            gate = opened[:, step - 1] if step else None
            arguments = scheduler.scale_model_input(x, t), t.expand(len(x)), cond, gate, noise, *kept
            output, noise, *kept = checkpoint(self._step, step, scheduler, *arguments, use_reentrant=False)
            x = scheduler.step(_mean_of(output, x), t, x).prev_sample
        return x

    def _scheduler(self, model: DiffusionModel, sampler: Sampler) -> Any:
        scheduler = sampler.scheduler_for(model.pipeline)
        scheduler.set_timesteps(sampler.steps, device=model.device)
        if getattr(scheduler, "order", 1) != 1:
            raise RequestError("scheduler", sampler.scheduler, "a scheduler that calls the network once a step")
        return scheduler

    def _step(
        self,
        step: int,
        scheduler: Any,
        x: Tensor,
        t: Tensor,
        cond: dict[str, Tensor],
        gate: Tensor | None,
        noise: Tensor,
        *kept: Tensor,
    ) -> tuple[Tensor, ...]:
        """(the output that the sampler sees, the held noise, what is kept), all of them blended by the gates."""
        output, features = self._network(x, t, cond, gate, kept)
        if gate is None:
            return output, to_noise(output, x, t, scheduler), *features
        every, none = gate.prod(), (1 - gate).prod()
        weight = self.mixing(step / self.student_sampler.steps)
        mixed = weight * output + (1 - weight) * from_noise(noise, x, t, scheduler) if weight < 1 else output
        held = every * to_noise(output, x, t, scheduler) + (1 - every) * noise
        return (1 - none) * output + none * mixed, held, *features

    def _network(
        self, x: Tensor, t: Tensor, cond: dict[str, Tensor], gate: Tensor | None, kept: tuple[Tensor, ...]
    ) -> tuple[Tensor, list[Tensor]]:
        fill(self.cuts, kept if gate is not None else [None] * len(self.cuts))
        for index, cut in enumerate(self.cuts):
            cut.cell.gate = None if gate is None else gate[group_of(index, len(self.cuts), len(gate))]
        try:
            with standing_in(change for cut in self.cuts for change in cut.keep):
                output = self.student.predict(x, t, cond)
        finally:
            features = tensors_of(self.cuts)
        return output, [feature for feature in features if feature is not None]


def _mean_of(output: Tensor, x: Tensor) -> Tensor:
    """The prediction without a learned variance."""
    return output[:, : x.shape[1]]
