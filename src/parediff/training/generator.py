"""A generator that learns from a frozen classifier: what is drawn, what is minimised, and the training itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from parediff.models.classifiers.build import faster
from parediff.models.classifiers.generators import Shape
from parediff.models.classifiers.networks import as_images
from parediff.models.classifiers.probes import Seen, look
from parediff.training.base import seed_of
from parediff.training.collapse import CollapseWatch
from parediff.training.synthesis import Synthesis, descend


@dataclass(frozen=True)
class Codes:
    """What a batch is made from: noise, its (leading) classes [N], and what the teacher should say [N, classes].

    `weights` [N, K] where a code mixes K classes; noise and labels are [N, K, ...] then.
    """

    noise: Tensor
    labels: Tensor
    targets: Tensor
    weights: Tensor | None = None

    def to(self, device: torch.device) -> Codes:
        weights = None if self.weights is None else self.weights.to(device)
        return Codes(self.noise.to(device), self.labels.to(device), self.targets.to(device), weights)


@dataclass(frozen=True)
class GeneratorObjective(ABC):
    """One way to teach a generator. `plays`: its loss asks for the student. `goes_on`: it learns beside the student.

    `student_batches`: fresh batches that the student learns from between two steps of the generator; 0: the
    generator's own batch.
    """

    plays: ClassVar[bool] = False
    goes_on: ClassVar[bool] = True
    labelled: ClassVar[bool] = True
    student_batches: ClassVar[int] = 0

    @abstractmethod
    def network(self, shape: Shape, classes: int, teacher: nn.Module) -> nn.Module:
        """A fresh generator."""

    @abstractmethod
    def draw(self, size: int, classes: int, generator: torch.Generator) -> Codes:
        """What one batch is made from, on the CPU."""

    def images(self, network: nn.Module, codes: Codes) -> Tensor:
        """In the teacher's normalised space."""
        return network(codes.noise, codes.labels)

    @abstractmethod
    def loss(
        self, teacher: nn.Module, normalised: Tensor, seen: Seen, codes: Codes, student: nn.Module | None, rng: Rng
    ) -> Tensor:
        """What the generator descends."""

    def prepared(self, teacher: nn.Module, shape: Shape, generator: torch.Generator) -> GeneratorObjective:
        """The objective with what it measures once before training."""
        return self


Rng = torch.Generator


class GeneratorTraining(Synthesis):
    """Adam(0.5, 0.999) on the generator; a student of its own (`plays`) descends what the generator ascends.

    Aborts where the generator collapses. `result` samples in training mode.
    """

    def __init__(
        self,
        teacher: nn.Module,
        objective: GeneratorObjective,
        shape: Shape,
        classes: int,
        *,
        batch_size: int,
        learning_rate: float,
        student: nn.Module | None,
        student_rate: float,
        warmup: int,
        cosine: bool,
        seed: int,
    ) -> None:
        super().__init__(teacher, seed=seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(seed, -1))
            self.network = faster(objective.network(shape, classes, teacher)).train()
            start = torch.Generator().manual_seed(seed_of(seed, -2))
            self.objective = objective.prepared(teacher, shape, start)
        self.student, self.warmup, self.student_rate = student, warmup, student_rate
        self.classes, self.batch_size, self.learning_rate, self.cosine = classes, batch_size, learning_rate, cosine
        self.watch = CollapseWatch(classes, conditional=objective.labelled)

    def generator_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.network.parameters(), lr=self.learning_rate, betas=(0.5, 0.999))

    def configure_optimizers(self) -> Any:
        optimizer = self.generator_optimizer()
        optimizers = [optimizer]
        if self.student is not None:
            learned = [p for p in self.student.parameters() if p.requires_grad]
            optimizers.append(torch.optim.SGD(learned, lr=self.student_rate, momentum=0.9, nesterov=True))
        if not self.cosine:
            return optimizers
        spans = [self.total, max(1, self.total - self.warmup)]
        pairs = zip(optimizers, spans, strict=False)
        return optimizers, [torch.optim.lr_scheduler.CosineAnnealingLR(one, span) for one, span in pairs]

    def step(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        network, *students = self.given_optimizers()
        playing = self.student is not None and self.global_step >= self.warmup
        for _ in range(self.objective.student_batches if playing else 0):
            assert self.student is not None
            images, _ = self.draw(generator)
            gap = divergence(self.teacher, self.student, as_images(self.teacher, images))
            descend(gap, students[0], counted=False)
        values, _, _ = self.generator_step(network, generator, self.student if playing else None, counted=True)
        if self.cosine:
            for schedule in self.given_schedules()[: 1 + playing]:
                schedule.step()
        return values

    def generator_step(
        self, optimizer: Any, generator: torch.Generator, student: nn.Module | None, *, counted: bool
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """One step of the generator; (what to log, the batch in normalised space, its targets), detached."""
        codes = self.objective.draw(self.batch_size, self.classes, generator).to(self.device)
        normalised = self.objective.images(self.network, codes)
        seen = look(self.teacher, as_images(self.teacher, normalised))
        loss = self.objective.loss(self.teacher, normalised, seen, codes, student, generator)
        descend(loss, optimizer, counted=counted)
        self.watch.look(seen.logits.detach(), codes.targets.argmax(1))
        targets = codes.targets if self.objective.labelled else seen.logits.detach().softmax(1)
        return {"generator": loss.detach()} | self.watch.values(), normalised.detach(), targets

    @torch.no_grad()
    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A batch (images in normalised space, targets) of the generator as it stands, in training mode."""
        codes = self.objective.draw(self.batch_size, self.classes, generator).to(next(self.network.parameters()).device)
        images = self.objective.images(self.network.train(), codes)
        if self.objective.labelled:
            return images, codes.targets
        return images, self.teacher(as_images(self.teacher, images)).softmax(1)


def divergence(teacher: nn.Module, student: nn.Module, images: Tensor) -> Tensor:
    """D = KL(softmax t || softmax s), temperature 1, mean over the batch."""
    wanted, given = teacher(images).log_softmax(1), student(images).log_softmax(1)
    return F.kl_div(given, wanted, log_target=True, reduction="batchmean")


def soft_cross_entropy(targets: Tensor, logits: Tensor) -> Tensor:
    """-sum_k target_k ln softmax_k, mean over the batch."""
    return -(targets * logits.log_softmax(1)).sum(1).mean()
