"""A compressed classifier learns from the uncompressed one on images that need not be real."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from parediff.models.classifiers.networks import as_images
from parediff.quantization.calibrate import fit_weights, input_quantizers
from parediff.quantization.search import MinMax
from parediff.training.augmentations import each_by_chance
from parediff.training.collapse import CollapseWatch
from parediff.training.generator import soft_cross_entropy
from parediff.training.ranges import RangeAverage
from parediff.training.synthesis import ManualTraining, descend, stepped

Reduction = Literal["element_mean", "batch_mean"]
Ranges = Literal["calibrated", "ema", "legacy"]
DECAYS = (0.25, 0.5, 0.75)
"""Shares of the training at which the rates fall tenfold; GDFQ: epochs 100, 200, 300 of 400."""


class Distillation(ManualTraining):
    """`cross_entropy` CE(s, y) + `distillation` T^2 KL(t || s), SGD with Nesterov's momentum; the last state counts.

    Student and teacher stay in eval mode, so that BatchNorm keeps its statistics; its gains and biases learn. Images
    come from the data module, or where that has a `maker`, from its generator, which learns one step before the student
    does (unless its paper freezes it).
    """

    def __init__(
        self,
        network: nn.Module,
        teacher: nn.Module,
        *,
        cross_entropy: float,
        distillation: float,
        temperature: float,
        reduction: Reduction,
        learning_rate: float,
        weight_decay: float,
        activation_ranges: Ranges,
        observe_steps: int,
        refit_weights: bool,
        augment: Sequence[str],
        seed: int,
    ) -> None:
        super().__init__(teacher, seed=seed)
        self.network = network.eval().requires_grad_(True)
        self.cross_entropy, self.distillation = cross_entropy, distillation
        self.temperature, self.reduction = temperature, reduction
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.observe_steps, self.refit_weights, self.augment = observe_steps, refit_weights, tuple(augment)
        quantizers = {name: q for name, q in input_quantizers(network).items() if not q.grid.identity}
        self._observed = quantizers if activation_ranges != "calibrated" else {}
        self.ranges = nn.ModuleList(RangeAverage(legacy=activation_ranges == "legacy") for _ in self._observed)
        self.maker: Any | None = None

    @property
    def _data(self) -> Any:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def setup(self, stage: str) -> None:
        self.maker = getattr(self._data, "maker", None)
        if self.maker is not None:
            self.maker.student = None  # it had one of its own; the compressed network takes its place
            self.watch = CollapseWatch(self.maker.classes, conditional=self.maker.objective.labelled)

    def configure_optimizers(self) -> Any:
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        rate, decay = self.learning_rate, self.weight_decay
        student = torch.optim.SGD(parameters, lr=rate, momentum=0.9, nesterov=True, weight_decay=decay)
        optimizers: list[torch.optim.Optimizer] = [student]
        if self._generator_learns:
            assert self.maker is not None
            optimizers.append(self.maker.generator_optimizer())
        return optimizers, [stepped(optimizer, self.total, DECAYS) for optimizer in optimizers]

    @property
    def _generator_learns(self) -> bool:
        return self.maker is not None and self.maker.objective.goes_on

    def step(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        batches, values = self._batches(batch, generator)
        for place, (images, targets) in enumerate(batches):
            loss, apart = self.loss(each_by_chance(self.augment, images, generator), targets)
            descend(loss, self.given_optimizers()[0], counted=place == len(batches) - 1)
            if self.refit_weights:
                fit_weights(self.network, MinMax())
            if self.maker is not None:
                self.watch.look_at_student(apart)
        if self.global_step == self.observe_steps:
            self._take_over()
        for schedule in self.given_schedules():
            schedule.step()
        return values | {"loss": loss.detach(), "divergence": apart}

    def _batches(self, batch: Any, generator: torch.Generator) -> tuple[list[tuple[Tensor, Tensor]], dict[str, Tensor]]:
        """(images as the network takes them, soft targets) for each of the student's steps, and what to log."""
        if self.maker is None:
            images, labels = batch
            classes = self.teacher(images[:1]).shape[1]
            return [(images, F.one_hot(labels, classes).float())], {}
        values: dict[str, Tensor] = {}
        made: list[tuple[Tensor, Tensor]] = []
        if self._generator_learns:
            optimizer, fresh = self.given_optimizers()[1], self.maker.objective.student_batches
            plays = self.network if self.maker.objective.plays else None
            values, images, targets = self.maker.generator_step(optimizer, generator, plays, counted=False)
            made = [] if fresh else [(images, targets)]
        missing = self.maker.objective.student_batches or 1
        made += [self.maker.draw(generator) for _ in range(missing - len(made))]
        return [(as_images(self.teacher, images), targets) for images, targets in made], values

    def loss(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """(the loss, KL(t || s) per image at temperature 1, detached)."""
        with torch.no_grad():
            wanted = self.teacher(images)
        with self._observing():
            given = self.network(images)
        softened = softened_divergence(wanted, given, self.temperature, self.reduction)
        loss = self.cross_entropy * soft_cross_entropy(targets, given) + self.distillation * softened
        return loss, softened_divergence(wanted, given.detach(), 1.0, "batch_mean")

    @contextmanager
    def _observing(self) -> Iterator[None]:
        """In the first steps every average looks at what its quantiser is given."""
        with ExitStack() as stack:
            for average, quantizer in zip(self.ranges, self._observed.values(), strict=True):

                def look(_: Any, arguments: Any, average: Any = average) -> None:
                    average.update(arguments[0].detach())

                if self.global_step < self.observe_steps:
                    stack.callback(quantizer.register_forward_pre_hook(look).remove)
            yield

    def _take_over(self) -> None:
        """The averages become the ranges, which stand from now on."""
        for average, quantizer in zip(self.ranges, self._observed.values(), strict=True):
            assert isinstance(average, RangeAverage)
            quantizer.fill(*quantizer.grid.fit(*average.range()))

    def settle(self) -> None:
        self.network.eval().requires_grad_(False)


def softened_divergence(wanted: Tensor, given: Tensor, temperature: float, reduction: Reduction) -> Tensor:
    """T^2 KL(softmax(wanted / T) || softmax(given / T)): mean over images, and for element_mean over classes too.

    GDFQ, Qimera and AIT take the mean over elements, IntraQ and HAST the one over images: C times as much.
    """
    teacher, student = (wanted / temperature).log_softmax(1), (given / temperature).log_softmax(1)
    total = F.kl_div(student, teacher, log_target=True, reduction="batchmean") * temperature**2
    return total / wanted.shape[1] if reduction == "element_mean" else total
