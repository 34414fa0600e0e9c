"""Fine-tuning of a quantised classifier on images that need not be real (GDFQ and its descendants)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from parediff.errors import RequestError
from parediff.methods.base import Method
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.quantization.calibrate import input_quantizers
from parediff.training.augmentations import require_known
from parediff.training.ranges import LEAST_LEGACY_UPDATES
from parediff.validation import NonNegative, Positive, Seed, Whole, require


@dataclass(frozen=True)
class Finetune(Method):
    """Listed after the method that quantises. What its images are is the calibration's business: with `real_data` all
    training images, else the images that calibrated, or the generator itself, which goes on learning.

    `reduction`: of the KL, by element as GDFQ or by image as IntraQ, which weighs it C times as much. `ema`: activation
    ranges are an average over the first `observe_steps` steps and stand from then on; `legacy`: GDFQ's own average.
    `refit_weights`: weights' steps follow their least and largest value after every step, as in the min-max family.
    `augment`: what images are changed by, each on a random half of every batch; images that were made are few.
    The result is the last state, never the best one on held-out images.
    """

    corrects: ClassVar[bool] = True
    serves: ClassVar[tuple[str, ...]] = ("classes",)

    cross_entropy: Annotated[NonNegative, "weight of the images' own classes"]
    distillation: Annotated[NonNegative, "weight of the uncompressed classifier's answers"]
    temperature: Annotated[Positive, "of those answers"]
    reduction: Literal["element_mean", "batch_mean"]
    learning_rate: Annotated[Positive, "of Nesterov's momentum"]
    weight_decay: Annotated[NonNegative, "of all weights"]
    activation_ranges: Literal["calibrated", "ema", "legacy"]
    observe_steps: Whole
    refit_weights: bool
    augment: Annotated[tuple[str, ...], "changes of the images, one after the other, each on half of them"]
    seed: Annotated[Seed, "of what is random in the training"]

    def __post_init__(self) -> None:
        super().__post_init__()
        require_known("augment", self.augment)
        weights = self.cross_entropy + self.distillation
        require(weights > 0, "distillation", self.distillation, "a positive number here or for cross_entropy")
        least = {"calibrated": 0, "ema": 1, "legacy": LEAST_LEGACY_UPDATES}[self.activation_ranges]
        require(self.observe_steps >= least, "observe_steps", self.observe_steps, f"{least} or more with these ranges")

    def prepare(self, model: DiffusionModel) -> None:
        if not input_quantizers(model.denoiser):
            raise RequestError(
                "method", "finetune", "a list in which a quantising method comes first, as [ptq,finetune],"
            )

    def training(self, student: DiffusionModel, teacher: DiffusionModel) -> Any:
        from parediff.training.distillation import Distillation

        return Distillation(
            student.denoiser,
            teacher.denoiser,
            cross_entropy=self.cross_entropy,
            distillation=self.distillation,
            temperature=self.temperature,
            reduction=self.reduction,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            activation_ranges=self.activation_ranges,
            observe_steps=self.observe_steps,
            refit_weights=self.refit_weights,
            augment=self.augment,
            seed=self.seed,
        )

    def fired(self, model: DiffusionModel) -> dict[str, Any]:
        """Which state is reported, and under which loss."""
        return {
            "reported": "last",
            "loss": f"{self.cross_entropy} CE + {self.distillation} KL, T {self.temperature}, {self.reduction}",
        }
