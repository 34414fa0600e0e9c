"""What a compression method is."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.validation import check_types


@dataclass(frozen=True)
class Method(ABC):  # noqa: B024 - every moment of the lifecycle may be empty, none may be missing
    """One way to make a denoiser cheaper: prepare, calibrate, train, finalize, and `fired` as proof.

    Fields are hyper-parameters and never change. Whatever is learned lives in the denoiser's parameters and buffers,
    with their final shapes from `prepare` on; so restoring is prepare, load_state_dict, finalize.
    `emulated`: its arithmetic is simulated, so its speed means nothing. `corrects`: it repairs what other methods
    damage, and changes nothing worth having alone; `comes_first`: it may be listed before that. `serves`: models that
    give images; one that needs no sampling steps may add those that name classes. `family`: what a model can have done
    to it once only.
    """

    emulated: ClassVar[bool] = False
    corrects: ClassVar[bool] = False
    comes_first: ClassVar[bool] = False
    family: ClassVar[Literal["", "quantisation", "feature reuse"]] = ""
    serves: ClassVar[tuple[str, ...]] = ("images",)

    def __post_init__(self) -> None:
        check_types(self)

    def prepare(self, model: DiffusionModel) -> None:  # noqa: B027
        """Change the structure. Needs no data. Raises where nothing matched."""

    def calibrate(self, model: DiffusionModel, calls: Iterable[Call]) -> None:  # noqa: B027
        """Fill tensors from recorded calls; `calls` can be iterated again and gives the same ones."""

    @property
    def learns_from_data(self) -> bool:
        """Whether `training` takes the run's `data`; one that makes its own batches says no."""
        return type(self).training is not Method.training

    def training(self, student: DiffusionModel, teacher: DiffusionModel) -> Any | None:
        """A LightningModule that trains what `prepare` put in place, or None."""
        return None

    def finalize(self, model: DiffusionModel) -> None:  # noqa: B027
        """Freeze, fold, tabulate: a pure function of the tensors."""

    def fired(self, model: DiffusionModel) -> dict[str, Any]:
        """Proof of effect, in plain numbers and words for the record."""
        return {}
