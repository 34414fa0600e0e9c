"""Keyframes placed where the finished image needs them, our own, no paper.

How much a feature changes is not how much the image minds, and a keyframe is worth what the others leave to it. So
whole schedules are tried, on a few images: evenly spread and early keyframes first, then the best of them with one
keyframe moved, as long as that helps by more than the chance of the images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated

import torch
from torch import Tensor, nn

from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.reuse.engine import in_full
from parediff.reuse.learned import Table, attach, attached
from parediff.reuse.schedules import Schedule, clustered
from parediff.validation import Count, check_types

Keys = frozenset[int]
Draw = Callable[[DiffusionModel, Sampler, int], Tensor]
POWERS = (1.2, 1.4, 1.7, 2.0, 2.5)
"""Of the early keyframes that the search may start from."""
MOVES = (-1, 1, -2, 2)
SMALLEST = 1e-12  # squared error of an image that is the reference's


@dataclass(frozen=True)
class Measure:
    """What is drawn to place keyframes: so many of the calibration's first `images`, by `sampler`.

    They are compared with those of the same seeds that `reference` draws with every step in full.
    """

    sampler: Sampler
    reference: Sampler
    images: Annotated[Count, "of the calibration, drawn for every schedule that is tried"]

    def __post_init__(self) -> None:
        check_types(self)


def place(model: DiffusionModel, draw: Draw, measure: Measure, schedule: Schedule) -> None:
    """Fill the model's table with as many keyframes as `schedule` has, where images are closest to the reference's.

    `draw` gives the first so many images of the calibration as a model draws them with a sampler. Far is the logarithm
    of an image's mean squared error, which is what PSNR averages.
    """
    steps, table = measure.sampler.steps, attached(model.denoiser, Table)
    target = draw(in_full(model), measure.reference, measure.images)

    def errors(keys: Keys) -> Tensor:
        _fill(table, keys)
        found = draw(model, measure.sampler, measure.images)
        return (found - target).square().flatten(1).mean(1).clamp(min=SMALLEST).log()

    _fill(table, least(starts(schedule, steps), steps, schedule.ends(steps), errors))


def attach_table(denoiser: nn.Module, keyframes: Keys, steps: int) -> None:
    """Let the network own its schedule, which is `keyframes` until it is measured."""
    table = Table(1, steps)
    _fill(table, keyframes)
    attach(denoiser, table)


def keyframes_of(denoiser: nn.Module, steps: int | None = None) -> Keys:
    """The keyframes in the network's own table; RequestError where they were placed for other `steps`."""
    return frozenset(step for step, fresh in enumerate(attached(denoiser, Table, steps).fresh[0].tolist()) if fresh)


def starts(schedule: Schedule, steps: int) -> list[Keys]:
    """The evenly spread keyframes, and early ones that are as many."""
    even, ends = schedule.over(steps), schedule.ends(steps)
    early = (ends | frozenset(clustered(steps, schedule.interval, 0, power)) for power in POWERS)
    return list(dict.fromkeys([even, *(keys for keys in early if len(keys) == len(even))]))


def least(starts: Sequence[Keys], steps: int, fixed: Keys, errors: Callable[[Keys], Tensor]) -> Keys:
    """The best start, improved by moving one keyframe by a step or two until no move helps.

    `errors` has one for each image. Better is what is better by more than one standard error over images, so that the
    first start, the even one, stays where the others are level with it.
    """
    of = cache(errors)

    def better(keys: Keys, than: Keys) -> bool:
        gain = of(than).double() - of(keys).double()
        chance = float(gain.std()) / math.sqrt(len(gain)) if len(gain) > 1 else 0.0
        return float(gain.mean()) > chance

    best = starts[0]
    for start in starts[1:]:
        best = start if better(start, best) else best
    while (found := next((keys for keys in moved(best, steps, fixed) if better(keys, best)), None)) is not None:
        best = found
    return best


def moved(keys: Keys, steps: int, fixed: Keys) -> Iterator[Keys]:
    """Every schedule that differs in the place of one keyframe; step 0 and `fixed` ones stay."""
    for key in sorted(keys - fixed - {0}):
        for by in MOVES:
            if 0 < key + by < steps and key + by not in keys:
                yield keys - {key} | {key + by}


def _fill(table: Table, keys: Keys) -> None:
    table.fresh[0] = torch.tensor([step in keys for step in range(table.steps)])
