"""Calibration data of a classifier: images with the classes they are meant to show, made or taken once in a run."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from parediff.calibration.base import CalibrationSource
from parediff.errors import RequestError
from parediff.models.classifiers.model import ClassifierModel
from parediff.models.classifiers.networks import as_images
from parediff.models.diffusion.door import Call
from parediff.validation import Count, FirstSeed, require

Labelled = tuple[Tensor, Tensor]
"""(images NCHW as the classifier takes them, classes [N])."""
Fit = Callable[[str, Any, int], None]
"""Trains a module under a name for so many steps; a training that was cut off goes on."""


@dataclass(frozen=True)
class Studio:
    """What an image source works with: the uncompressed classifier, its images' shape, and a way to train."""

    teacher: ClassifierModel
    shape: tuple[int, int, int]
    classes: int
    data: Callable[[], Any]
    fit: Fit

    @classmethod
    def of(cls, teacher: ClassifierModel, data: Callable[[], Any], fit: Fit) -> Studio:
        """Raises RequestError where the data's classes are not the classifier's."""
        shape = tuple(data().image_shape)
        with torch.no_grad():
            classes = teacher.denoiser(torch.zeros(1, *shape, device=teacher.device)).shape[1]
        named = len(data().classes)
        require(classes == named, "data", f"{named} classes", f"images of {classes} classes, as {teacher.name} knows,")
        return cls(teacher, shape, classes, data, fit)

    def images(self, normalised: Tensor) -> Tensor:
        """From the space in which images are made to what the classifier takes."""
        return as_images(self.teacher.denoiser, normalised.to(self.teacher.device))

    @torch.no_grad()
    def named(self, images: Tensor) -> Labelled:
        """Images with the classes that the uncompressed classifier sees."""
        return images, self.teacher.denoiser(images.to(self.teacher.device)).argmax(1)


@dataclass(frozen=True)
class ImageSource(CalibrationSource):
    """`count` images, `batch_size` at a time; everything random follows from `first_seed`."""

    first_seed: FirstSeed
    count: Annotated[Count, "images"]
    batch_size: Annotated[Count, "images made at a time"]

    @property
    def seeds(self) -> range:
        return range(self.first_seed, self.first_seed + self.count)

    @property
    def sizes(self) -> list[int]:
        """Of the batches, the last one smaller where it has to be."""
        whole, rest = divmod(self.count, self.batch_size)
        return [self.batch_size] * whole + [rest] * bool(rest)

    def check(self, teacher: ClassifierModel) -> None:
        """Raise RequestError for a classifier that it cannot work with; before anything expensive."""

    @abstractmethod
    def make(self, studio: Studio) -> Iterator[Labelled]:
        """The images, batch by batch."""

    def going_on(self, module: Any) -> Any | None:
        """The training that may go on beside a student's, of those that `make` handed to `studio.fit`; or None."""
        return None


class MadeImages:
    """The images of one run: made when first asked for, the same ones after; how long that took, and how many."""

    def __init__(self, source: ImageSource, studio: Callable[[Fit], Studio], fit: Fit) -> None:
        self.source, self._studio, self._fit = source, studio, fit
        self.seconds = 0.0
        self.maker: Any | None = None
        self._batches: list[Labelled] | None = None

    @property
    def batches(self) -> list[Labelled]:
        if self._batches is None:
            start = time.perf_counter()
            self._batches = list(self.source.make(self._studio(self._kept)))
            self.seconds = time.perf_counter() - start
        return self._batches

    @property
    def count(self) -> int:
        """How many there are; 0 where nobody asked for them."""
        return sum(len(images) for images, _ in self._batches or [])

    def all(self) -> Labelled:
        """(images [N, C, H, W], classes [N]), on the CPU."""
        images, labels = zip(*self.batches, strict=True)
        return torch.cat([part.cpu() for part in images]), torch.cat([part.cpu() for part in labels])

    def calls(self, model: ClassifierModel) -> Iterable[Call]:
        return [model.call(images.to(model.device)) for images, _ in self.batches]

    def _kept(self, name: str, module: Any, steps: int) -> None:
        self._fit(name, module, steps)
        self.maker = self.source.going_on(module)


def require_several(source: ImageSource) -> None:
    """Statistics of a batch need more than one image."""
    smallest = min(source.sizes)
    if smallest < 2:
        accepted = "2 or more in every batch, the last one too: statistics of one image are no statistics of a batch"
        raise RequestError("batch_size", smallest, f"{accepted} are accepted")
