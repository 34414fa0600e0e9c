"""A generator's images with noise, for a class-conditional denoiser, after a look at what they do inside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor

from parediff.calibration.base import CallSource
from parediff.calibration.images import ImageSource, Studio
from parediff.calibration.noised import noised, timed
from parediff.calibration.uniform import Uniform
from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.models.tree import named
from parediff.quantization.layers import LAYERS, FoldableLayer
from parediff.quantization.samples import Reservoir, observing
from parediff.validation import Count, FirstSeed, Positive, Range, Share, require


@dataclass(frozen=True)
class MadeInputs(CallSource):
    """`images` that `classifier` has taught are clipped to [-1, 1] and noised at `steps` evenly spaced sampler steps.

    They match BatchNorm's statistics and are no images, so they are compared with `trajectories` of the model itself:
    where the `quantile` of a layer's |input| is between `lowest` and `highest` times the model's own for a `share` of
    all layers they are accepted; else calls below a share `early` of all time steps are the model's own. The record
    says which. The rule is ours (data-free-diffusion.md, section 4.1), not a published method.
    """

    first_seed: FirstSeed
    count: Annotated[Count, "images"]
    batch_size: Annotated[Count, "images at a time"]
    steps: Count
    images: ImageSource
    classifier: Annotated[Any, "a classifier with BatchNorm, of the model's images and classes"]
    trajectories: Annotated[Count, "of the model's own, to compare with"]
    quantile: Annotated[float, Range(above=0.5, below=1), "of the magnitudes that a layer reads"]
    lowest: Annotated[Positive, "ratio of the two quantiles"]
    highest: Annotated[Positive, "ratio of the two quantiles"]
    share: Annotated[Share, "of the layers whose ratio has to lie between them"]
    early: Annotated[Share, "of all time steps: below it, images that are not accepted give way"]
    fit: Callable[[str, Any, int], None] | None = field(default=None, repr=False, compare=False)
    tell: Callable[[Mapping[str, Any]], None] | None = field(default=None, repr=False, compare=False)

    @property
    def seeds(self) -> range:
        return range(self.first_seed, self.first_seed + self.count + self.trajectories)

    def begun(self, fit: Callable[[str, Any, int], None], tell: Callable[[Mapping[str, Any]], None]) -> MadeInputs:
        return replace(self, fit=fit, tell=tell)

    def parts(self, model: DiffusionModel, sampler: Sampler) -> Iterator[Callable[[], Iterable[Call]]]:
        images, labels = self._made(model)
        scheduler, positions = timed(model, sampler, self.steps)
        own = Uniform(self.first_seed + self.count, self.trajectories, self.batch_size, self.steps)
        trajectories = list(own.record(model, sampler))
        noisy = partial(self._batch, model, scheduler, images, labels)
        starts = range(0, len(images), self.batch_size)
        all_of_them = (call for start in starts for call in noisy(start, positions))
        found = ratios(model, all_of_them, trajectories, self.quantile)
        fitting = sum(self.lowest <= ratio <= self.highest for ratio in found.values()) / len(found)
        accepted = fitting >= self.share
        if self.tell is not None:
            self.tell({"accepted": accepted, "share_of_layers": round(fitting, 4), "ratios": found})
        limit = 0.0 if accepted else self.early * int(scheduler.config.num_train_timesteps)
        kept = [position for position in positions if float(scheduler.timesteps[position]) >= limit]
        for start in starts:
            yield partial(noisy, start, kept)
        if not accepted:
            yield lambda: [call for call in trajectories if float(call.t[0]) < limit]

    def _made(self, model: DiffusionModel) -> tuple[Tensor, Tensor]:
        """(images in [-1, 1] as the denoiser sees them, classes)."""
        accepted = "a class-conditional model of images that a classifier with as many classes names"
        require(model.conditioning == "class", "calibration", "made_inputs", accepted)
        teacher = self.classifier.load(str(model.device))
        self.images.check(teacher)
        with torch.no_grad():
            classes = teacher.denoiser(torch.zeros(1, *model.sample_shape, device=model.device)).shape[1]
        of_model = f"one of {model.num_classes} classes, as {model.name} has,"
        require(classes == model.num_classes, "calibration.classifier", f"{classes} classes", of_model)
        assert self.fit is not None
        studio = Studio(teacher, model.sample_shape, classes, lambda: None, self.fit)
        pairs = list(self.images.make(studio))
        made, labels = (torch.cat([pair[place].cpu() for pair in pairs]) for place in (0, 1))
        return made.detach().clamp(-1, 1), labels

    def _batch(
        self, model: DiffusionModel, scheduler: Any, images: Tensor, labels: Tensor, start: int, steps: list[int]
    ) -> Iterator[Call]:
        rows = slice(start, start + self.batch_size)
        seeds = range(self.first_seed + start, self.first_seed + start + len(images[rows]))
        for step in steps:
            yield noised(model, scheduler, images[rows], labels[rows], seeds, step)


def ratios(model: DiffusionModel, made: Iterable[Call], own: Iterable[Call], quantile: float) -> dict[str, float]:
    """By layer, the quantile of |input| under one kind of call over that under the other."""
    above, below = (magnitudes(model, calls, quantile) for calls in (made, own))
    return {path: above[path] / max(below[path], 1e-12) for path in above}


@torch.no_grad()
def magnitudes(model: DiffusionModel, calls: Iterable[Call], quantile: float) -> dict[str, float]:
    """The quantile of what each layer reads, in magnitude; layers that no call reaches are left out."""
    layers = dict(named(model.denoiser, (*LAYERS, FoldableLayer)))
    seen = {path: Reservoir(seed=place) for place, path in enumerate(layers)}
    with observing(layers, seen):
        for call in calls:
            model.predict(call.x, call.t, call.cond)
    found = {path: one.samples().values.abs().flatten() for path, one in seen.items() if one.range is not None}
    return {
        path: float(values.kthvalue(1 + int(quantile * (len(values) - 1))).values) for path, values in found.items()
    }
