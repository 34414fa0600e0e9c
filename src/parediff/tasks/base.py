"""What the line must know of a kind of model: how it is calibrated, run, and what its outputs are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor

from parediff.calibration.base import CalibrationSource
from parediff.calibration.images import Fit
from parediff.models.diffusion.door import Call
from parediff.models.diffusion.sampler import Sampler
from parediff.sampling.batch import Batch
from parediff.sampling.blocks import Blocks
from parediff.sampling.workload import Workload


class Calibrated(ABC):
    """The calibration data of one run. `remade`: a run that goes on makes the same once more; others add to it."""

    remade: ClassVar[bool] = False

    @property
    @abstractmethod
    def seconds(self) -> float:
        """What it took so far."""

    @property
    @abstractmethod
    def samples(self) -> int:
        """How many images, or rows of calls."""

    def told(self) -> dict[str, Any]:
        """What else the record says of it."""
        return {}

    @abstractmethod
    def calls(self, model: Any) -> Iterable[Call]:
        """Of `model` as it runs now; can be iterated again and gives the same calls."""

    @abstractmethod
    def learned_from(self) -> Any:
        """The data module for methods that train."""

    @abstractmethod
    def pictures(self) -> Tensor | None:
        """Some of it for the eye, uint8 NCHW; None where nobody has asked for any, or where it is no images."""


@dataclass(frozen=True)
class Task(ABC):
    """What a model is asked for and under which settings. `data` opens the data module, the same one each time.

    `judges`: what metrics of this task look at. `accepts`: the family its calibration data comes from. `measured_by`:
    the modules that make outputs; their digest is part of the protocol.
    """

    workload: Workload
    sampler: Sampler
    reference: Sampler
    calibration: CalibrationSource
    data: Callable[[], Any]

    judges: ClassVar[Literal["images", "classes"]]
    accepts: ClassVar[type[Any]]
    measured_by: ClassVar[tuple[str, ...]]

    @property
    @abstractmethod
    def count(self) -> int:
        """How many outputs there are."""

    @property
    @abstractmethod
    def at_once(self) -> int:
        """How many outputs the first batch has."""

    @abstractmethod
    def protocol(self) -> dict[str, Any]:
        """What two records must share to be compared, besides model, metrics, costs and code."""

    @abstractmethod
    def stated(self) -> dict[str, Any]:
        """`sampler` and `workload` as the record states them; needs no data."""

    def check_asked(self, model: Any) -> None:  # noqa: B027 - as below
        """Raise RequestError for a model that cannot do what is asked, of which no weight is looked at."""

    def check(self, model: Any) -> None:  # noqa: B027 - what can be checked before loading is checked before
        """Raise RequestError for a model whose calibration data cannot be made."""

    @abstractmethod
    def calibrated(self, teacher: Any, fit: Fit, folder: Path | None = None) -> Calibrated:
        """The calibration data of one run, for which nothing has been done yet; `fit` is how a source may train.

        What is too large for memory lies below `folder` while it is used; without one, where temporary files lie.
        """

    @abstractmethod
    def batches(self, model: Any, *, as_reference: bool, blocks: Blocks | None = None) -> Iterator[Batch]:
        """Outputs for the whole workload, in order; `as_reference` with the settings of the uncompressed model.

        `blocks` is where outputs that are expensive to make are kept until the run is finished.
        """

    @abstractmethod
    def few(self, model: Any, count: int, *, as_reference: bool) -> Callable[[], Any]:
        """What runs the first `count` entries of the workload, for time and memory; at most `at_once`."""
