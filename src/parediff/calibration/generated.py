"""What the sources that train one generator share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from torch import nn

from parediff.calibration.images import ImageSource, Labelled, Studio
from parediff.models.classifiers.model import ClassifierModel
from parediff.models.classifiers.probes import require_norms
from parediff.training.base import generator_of
from parediff.training.generator import GeneratorObjective, GeneratorTraining
from parediff.validation import Count, Positive, require


@dataclass(frozen=True)
class GeneratorSource(ImageSource, ABC):
    """A generator learns for `steps` steps of `batch_size` images; `count` images of the finished one calibrate.

    `cosine`: the rate falls to 0. Under a method that trains, the generator goes on learning beside the student where
    its paper has it so.
    """

    steps: Annotated[Count, "of the generator's training"]
    learning_rate: Annotated[Positive, "the generator's"]
    cosine: Annotated[bool, "whether the rate falls to 0"]
    latent: Annotated[Count, "numbers that the generator starts from"]

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.batch_size >= 2, "batch_size", self.batch_size, "2 or more, for the statistics of a batch,")

    @property
    @abstractmethod
    def objective(self) -> GeneratorObjective:
        """What the generator descends."""

    def student(self, teacher: nn.Module) -> nn.Module | None:
        """Who plays against the generator before there is a compressed network."""
        return None

    @property
    def student_settings(self) -> dict[str, Any]:
        return {"student_rate": 0.0, "warmup": 0}

    def check(self, teacher: ClassifierModel) -> None:
        require_norms(teacher.denoiser, type(self).__name__.lower())

    def make(self, studio: Studio) -> Iterator[Labelled]:
        network = studio.teacher.denoiser
        module = GeneratorTraining(
            network,
            self.objective,
            studio.shape,
            studio.classes,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            student=self.student(network),
            cosine=self.cosine,
            seed=self.first_seed,
            **self.student_settings,
        )
        studio.fit("generator", module, self.steps)
        for place, size in enumerate(self.sizes):
            normalised, targets = module.draw(generator_of(self.first_seed, -10 - place))
            yield studio.images(normalised[:size]), targets[:size].argmax(1)

    def going_on(self, module: Any) -> Any | None:
        return module if isinstance(module, GeneratorTraining) else None
