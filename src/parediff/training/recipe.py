"""How a quantised network is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from parediff.validation import check_types, require


@dataclass(frozen=True)
class Recipe:
    """TDQ's training (tdq.md, section 3): AdamW; static steps at a tenth of the rate and without decay.

    The rate rises over `warmup_steps` and then follows one of `training.base.SCHEDULES`.
    """

    loss: Literal["l1", "l2"]
    learning_rate: float
    schedule: Literal["constant", "cosine", "linear", "inverse_sqrt"]
    warmup_steps: int
    weight_decay: float
    ema_decay: float
    step_rate: float

    def __post_init__(self) -> None:
        check_types(self)
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "a positive number")
        require(self.step_rate > 0, "step_rate", self.step_rate, "a positive share of the learning rate")
        require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "0 or more")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "a number from 0 to below 1")
