"""A diffusion model's images as calibration data of a classifier: no photograph is needed where such a model exists."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import torch

from parediff.calibration.images import ImageSource, Labelled, Studio
from parediff.errors import RequestError
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.validation import Below1, Count


@dataclass(frozen=True)
class DiffusionSamples(ImageSource):
    """Images of `model` under `sampler` of which the classifier is at least `confidence` sure; the others are dropped.

    Seeds run on from `first_seed`, at most `attempts` times `count` of them. A class-conditional model draws all
    classes in turn.
    """

    model: Any
    sampler: Any
    confidence: Annotated[Below1, "how sure of an image the classifier has to be"]
    attempts: Count

    @property
    def seeds(self) -> range:
        return range(self.first_seed, self.first_seed + self.attempts * self.count)

    def make(self, studio: Studio) -> Iterator[Labelled]:
        drawing = self.model.load(str(studio.teacher.device))
        if drawing.sample_shape != studio.shape and self.model.image_shape() != studio.shape:
            accepted = f"a model of {studio.shape} images, as {studio.teacher.name} takes,"
            raise RequestError("calibration.model", self.model.name, f"{accepted} is accepted")
        missing = self.count
        for start in range(self.first_seed, self.seeds.stop, self.batch_size):
            images, labels = self._sure(studio, drawing, range(start, min(start + self.batch_size, self.seeds.stop)))
            if len(images):
                yield images[:missing], labels[:missing]
            missing -= min(missing, len(images))
            if not missing:
                return
        accepted = f"a confidence that {self.count} of {len(self.seeds)} images reach; {self.count - missing} did"
        raise RequestError("calibration.confidence", self.confidence, accepted)

    @torch.no_grad()
    def _sure(self, studio: Studio, drawing: DiffusionModel, seeds: range) -> Labelled:
        images = 2 * drawing.generate(seeds, drawing.conditions_for(seeds), self.sampler).float() - 1
        sure, labels = studio.teacher.denoiser(images).softmax(1).max(1)
        return images[sure >= self.confidence], labels[sure >= self.confidence]
