"""The real images that generated ones are compared with, or what somebody has already measured of them."""

from __future__ import annotations

import functools
import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from torch.utils.data import ConcatDataset

from parediff.atomic import write_atomically
from parediff.errors import RequestError
from parediff.metrics import clean
from parediff.metrics.base import Statistic
from parediff.metrics.extractors import Extractor
from parediff.metrics.statistics import Array, Gaussian, Moments, Published, Reservoir
from parediff.provenance import file_fingerprint, fingerprint
from parediff.validation import Count, Several, check_types, require

Shape = tuple[int, int, int]


class Data(Protocol):
    """What a data module has to offer: two datasets of (image CHW in [-1, 1], label)."""

    name: str
    image_shape: Shape

    @property
    def train(self) -> Any: ...

    @property
    def held_out(self) -> Any: ...


class Reference(ABC):
    """A set of real images as distances see it; `folder`, where it is set, keeps what was computed between runs."""

    folder: Path | None = None

    @property
    @abstractmethod
    def label(self) -> str:
        """What a distance to it is called after."""

    @abstractmethod
    def check(self, extractor: Extractor, image_shape: Shape) -> None:
        """Raise RequestError unless images C,H,W may be compared with these on that extractor."""

    @abstractmethod
    def moments(self, extractor: Extractor) -> Gaussian:
        """Mean and covariance of the features."""

    @abstractmethod
    def sample(self, extractor: Extractor, capacity: int, seed: int) -> Array:
        """Features of at most `capacity` images, a uniform sample of all of them."""

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """What decides the statistics, beside the extractor."""


@dataclass(eq=False)
class DataReference(Reference):
    """Images of a data module's split, as uint8, in batches; `count` of them, evenly spaced, null for all.

    `foreign` says that another set than the run's own is meant.
    """

    data: Annotated[Data, "the run's own, unless another set is meant"]
    split: Annotated[Literal["train", "held_out", "all"], "of the data"]
    batch_size: Annotated[Count, "images looked at at a time"]
    count: Annotated[Several, "so many of them, evenly spaced; null: all"] | None
    foreign: Annotated[bool, "true: another set than the run's own is meant"]

    def __post_init__(self) -> None:
        if self.data is None:
            raise RequestError("data", "null", "images to compare with: data=folder data.path=…, data=datasets …")
        check_types(self)
        total = len(self.images)
        require((self.count or 0) <= total, "count", self.count, f"at most the {total} images of the split")

    @property
    def label(self) -> str:
        return self.data.name

    def check(self, extractor: Extractor, image_shape: Shape) -> None:
        """Equal sizes and channels: a distance between images of two sizes judges the scaling."""
        own = tuple(getattr(self.data, "image_shape", image_shape))
        if own != tuple(image_shape):
            made, real = ("x".join(map(str, shape)) for shape in (image_shape, own))
            accepted = f"a set of images of {made} is accepted, as the model draws them; these are {real}"
            raise RequestError("reference", self.label, accepted)

    @cached_property
    def images(self) -> Any:
        """The dataset of (image, label)."""
        if self.split == "all":
            return ConcatDataset([self.data.train, self.data.held_out])
        return getattr(self.data, self.split)

    def batches(self) -> Iterator[Tensor]:
        """Images, uint8 NCHW, rounded as generated ones are."""
        images, total = self.images, len(self.images)
        chosen = [index * total // self.count for index in range(self.count)] if self.count else range(total)
        for start in range(0, len(chosen), self.batch_size):
            batch = torch.stack([images[index][0] for index in chosen[start : start + self.batch_size]]).float()
            if not bool((batch.abs() <= 1 + 1e-5).all()):  # NaN is none either
                span = f"{float(batch.min()):.3g} to {float(batch.max()):.3g}"
                raise RequestError("data", self.label, f"images in [-1, 1] are accepted, these lie in {span}")
            yield ((batch / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)

    def moments(self, extractor: Extractor) -> Moments:
        return self.reduce(extractor, Moments, Moments.of, {})

    def sample(self, extractor: Extractor, capacity: int, seed: int) -> Array:
        random = np.random.default_rng([seed, 1])

        def part(features: Array) -> Reservoir:
            return Reservoir.of(features, random.random(len(features)), capacity)

        return self.reduce(extractor, Reservoir, part, {"capacity": capacity, "seed": seed}).features

    def reduce(
        self, extractor: Extractor, kind: type[Statistic], part: Callable[[Array], Statistic], settings: dict[str, Any]
    ) -> Statistic:
        """Merged statistics of the features [N, D] of all images, read from `folder` where they stand there."""
        if self.folder is None:
            return self._merged(extractor, part)
        asked = [self.fingerprint(), extractor.fingerprint(), kind.__name__, settings]
        file = self.folder / f"{fingerprint(asked)}.npz"
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_suffix(".lock")):
            if not file.is_file():
                content = io.BytesIO()
                np.savez(content, **vars(self._merged(extractor, part)))
                write_atomically(file, content.getvalue())
        with np.load(file, allow_pickle=False) as kept:
            return kind(**{key: kept[key] if kept[key].ndim else kept[key].item() for key in kept.files})

    def _merged(self, extractor: Extractor, part: Callable[[Array], Statistic]) -> Statistic:
        parts = (part(extractor.rows(batch)) for batch in self.batches())
        return functools.reduce(lambda left, right: left.merge(right), parts)

    def fingerprint(self) -> dict[str, Any]:
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> dict[str, Any]:
        """Name, split, count and the images themselves: another download of the same set shows."""
        content, count = hashlib.sha256(), 0
        for batch in self.batches():
            content.update(np.ascontiguousarray(batch.numpy()).tobytes())
            count += len(batch)
        return {"data": self.data.name, "split": self.split, "count": count, "images": content.hexdigest()[:16]}


@dataclass(eq=False)
class PublishedStatistics(Reference):
    """clean-fid's statistics by name (cifar10, ffhq, …), fetched at first use; or an .npz file as clean-fid writes it.

    They belong to Inception with clean-fid's resize, and are refused on any other extractor.
    """

    name: Annotated[str, "as clean-fid calls the set"]
    resolution: Count | Literal["na"]
    split: str
    path: str | None

    def __post_init__(self) -> None:
        check_types(self)
        if self.path is not None and not Path(self.path).expanduser().is_file():
            raise RequestError("path", self.path, "an .npz file with mu and sigma, or feats, is accepted")

    @property
    def label(self) -> str:
        return self.name

    def check(self, extractor: Extractor, image_shape: Shape) -> None:
        if extractor.name != "inception":
            raise RequestError("extractor", extractor.name, "inception is accepted: clean-fid's statistics are of it")
        if isinstance(self.resolution, int) and image_shape[1:] != (self.resolution, self.resolution):
            made = "x".join(map(str, image_shape))
            raise RequestError("reference.resolution", self.resolution, f"the model draws images of {made}")

    def moments(self, extractor: Extractor) -> Published:
        found = self._read("FID", ("mu", "sigma"))
        return Published(found["mu"], found["sigma"])

    def sample(self, extractor: Extractor, capacity: int, seed: int) -> Array:
        features = self._read("KID", ("feats",))["feats"]
        random = np.random.default_rng([seed, 1])
        return Reservoir.of(features, random.random(len(features)), capacity).features

    def _read(self, kind: Literal["FID", "KID"], keys: tuple[str, ...]) -> dict[str, Array]:
        if self.path is None:
            found = clean.published(self.name, self.resolution, self.split, kind)
        else:
            with np.load(Path(self.path).expanduser(), allow_pickle=False) as content:
                found = {key: content[key] for key in content.files}
        absent = [key for key in keys if key not in found]
        if absent:
            raise RequestError(
                "path", self.path, f"an .npz file with {', '.join(keys)} is accepted, {absent[0]} is not"
            )
        return {key: np.asarray(found[key], dtype=np.float64) for key in keys}

    def fingerprint(self) -> dict[str, Any]:
        own = {"statistics": self.name, "resolution": self.resolution, "split": self.split}
        return own | ({} if self.path is None else {"file": file_fingerprint(Path(self.path).expanduser())})
