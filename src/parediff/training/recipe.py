"""How a quantised network is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from parediff.validation import Below1, NonNegative, Positive, Whole, check_types


@dataclass(frozen=True)
class Recipe:
    """TDQ's training (tdq.md, section 3): AdamW; static steps at a tenth of the rate and without decay.

    The rate rises over `warmup_steps` and then follows one of `training.base.SCHEDULES`.
    """

    loss: Annotated[Literal["l1", "l2"], "between the outputs of both networks"]
    learning_rate: Annotated[Positive, "of AdamW, at its highest"]
    schedule: Literal["constant", "cosine", "linear", "inverse_sqrt"]
    warmup_steps: Whole
    weight_decay: Annotated[NonNegative, "of matrices and kernels"]
    ema_decay: Annotated[Below1, "of the averaged weights, which are kept"]
    step_rate: Positive

    def __post_init__(self) -> None:
        check_types(self)
