"""Choosing a step: a search sees the samples and the grid that will be used, and nothing else."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from parediff.quantization.arithmetic import fake_quantize
from parediff.quantization.grid import SMALLEST_STEP, Grid
from parediff.quantization.samples import Samples
from parediff.validation import NonNegative, Positive, Range, Several, check_types

Fit = tuple[Tensor, Tensor | None]
Ranges = Callable[[Tensor], tuple[Tensor, Tensor]]
"""What is tried, [candidates, groups], to the low and high ends it stands for."""

BLOCK = 2**18
"""Rounded values per block: they fit a core's cache, and are so many that calling torch costs little beside them."""


class Score(ABC):
    """A badness per group. `weighted`: it knows what a value is that stands for several."""

    weighted: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, x: Tensor, rounded: Tensor, cells: Tensor | None, counts: Tensor | None) -> Tensor:
        """[groups] from x and xhat [groups, n]; `cells` and `counts` are as of Samples."""


class Search(ABC):
    """Finds (step [groups], zero point [groups] or None) of a grid for samples."""

    @abstractmethod
    def fit(self, samples: Samples, grid: Grid) -> Fit:
        """Step and zero point per group."""

    def seen(self, samples: Samples) -> Samples:
        """As few numbers as tell this search the same."""
        return samples


@dataclass(frozen=True)
class MinMax(Search):
    """The grid spans everything that was seen."""

    def fit(self, samples: Samples, grid: Grid) -> Fit:
        return grid.fit(samples.low, samples.high)


@dataclass(frozen=True)
class MovingRange(Search):
    """The grid spans PTQ4DM's exponential moving range of the calls, which depends on their order; of weights, all."""

    def fit(self, samples: Samples, grid: Grid) -> Fit:
        low, high = (samples.low, samples.high) if samples.moving is None else samples.moving
        return grid.fit(low, high)


@dataclass(frozen=True)
class MeanMagnitude(Search):
    """LSQ's first step, 2 mean |x - offset| / sqrt(Q) (arXiv 1902.08153, section 2.1); zero point as of the range."""

    def fit(self, samples: Samples, grid: Grid) -> Fit:
        step = 2 * (samples.values - grid.offset).abs().mean(dim=1) / math.sqrt(grid.high)
        _, zero_point = grid.fit(samples.low, samples.high)
        return step.clamp_min(SMALLEST_STEP), zero_point


@dataclass(frozen=True)
class Statistics(Search):
    """TDQ's first step: (mu + 3 sigma) / N, or (mu + 16 sigma) / (L - 1) after SiLU (tdq.md, section 2.2)."""

    def fit(self, samples: Samples, grid: Grid) -> Fit:
        mean, spread = samples.values.mean(dim=1), samples.values.std(dim=1, correction=0)
        if grid.has_zero_point:
            return grid.fit(mean - 3 * spread, mean + 3 * spread)
        reach = mean + (16 if grid.offset else 3) * spread
        return (reach / grid.high).clamp_min(SMALLEST_STEP), None


@dataclass(frozen=True)
class Percentile(Search):
    """The grid spans all but a share `1 - fraction` of the samples; on two-sided grids half of it at either end."""

    fraction: float = 0.999

    def fit(self, samples: Samples, grid: Grid) -> Fit:
        if grid.signed:
            reach = _quantile(samples.values.abs(), self.fraction)
            return grid.fit(-reach, reach)
        if not grid.has_zero_point:
            return grid.fit(samples.low, _quantile(samples.values, self.fraction))
        tail = (1 - self.fraction) / 2
        return grid.fit(_quantile(samples.values, tail), _quantile(samples.values, 1 - tail))


@dataclass(frozen=True)
class Shrink(Search):
    """The best of `candidates` shrunken ranges, by a score, then finer around the best.

    Factors run evenly from 1 down to `lowest` (80 and 0.21: Q-Diffusion's; 100 and 0.01: a plain scan of thresholds).
    Where the smallest factor wins, the scan goes on from there. Both ends of an affine range shrink together first, and
    then each alone, `rounds` times.
    """

    score: Score
    candidates: int = 80
    lowest: float = 0.21
    refinements: int = 2
    rounds: int = 2

    @torch.no_grad()
    def fit(self, samples: Samples, grid: Grid) -> Fit:
        samples = self.seen(samples)
        low, high = self._together(samples, grid)
        for _ in range(self.rounds if grid.has_zero_point else 0):
            high = self._one_end(samples, grid, high, samples.high, partial(_above, low))
            low = self._one_end(samples, grid, low, samples.low, partial(_below, high))
        return grid.fit(low, high)

    def seen(self, samples: Samples) -> Samples:
        return samples.summarised() if self.score.weighted else samples

    def _together(self, samples: Samples, grid: Grid) -> tuple[Tensor, Tensor]:
        """The range with both ends shrunken by one factor; on a shifted grid only the upper end exists."""
        low, high, one = samples.low, samples.high, torch.ones_like(samples.low)
        for _ in range(4):
            ranges = partial(_shrunken, low, high)
            factor = self._best(samples, grid, (one, one * self.lowest), self.candidates, ranges)
            low, high = low * factor, high * factor
            if not bool((factor <= self.lowest).any()):
                break
        return low, high

    def _one_end(self, samples: Samples, grid: Grid, end: Tensor, extreme: Tensor, ranges: Ranges) -> Tensor:
        """The best value of one end, between the extreme that was seen and a fraction of where the end stands."""
        return self._best(samples, grid, (extreme, end * self.lowest), max(8, self.candidates // 4), ranges)

    def _best(
        self, samples: Samples, grid: Grid, ends: tuple[Tensor, Tensor], candidates: int, ranges: Ranges
    ) -> Tensor:
        """The value per group between the two ends [groups] whose range scores best."""
        first, last = ends
        gap = (last - first) / max(1, candidates - 1)
        tried = first + gap * torch.arange(candidates, device=first.device)[:, None]
        best = self._winner(samples, grid, tried, ranges)
        smallest, largest = torch.minimum(first, last), torch.maximum(first, last)
        for _ in range(self.refinements):
            around = best + gap * torch.linspace(-1, 1, 9, device=best.device)[:, None]
            best = self._winner(samples, grid, torch.clamp(around, smallest, largest), ranges)
            gap = gap / 4
        return best

    def _winner(self, samples: Samples, grid: Grid, tried: Tensor, ranges: Ranges) -> Tensor:
        """tried [candidates, groups]; the best one per group."""
        step, zero_point = grid.fit(*ranges(tried))
        scores = scores_of(samples, step, zero_point, grid, self.score)
        return tried.gather(0, scores.argmin(dim=0, keepdim=True))[0]


def _shrunken(low: Tensor, high: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    return low * factor, high * factor


def _above(low: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    return low.expand_as(end), end


def _below(high: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    return end, high.expand_as(end)


def scores_of(samples: Samples, steps: Tensor, zero_points: Tensor | None, grid: Grid, score: Score) -> Tensor:
    """[candidates, groups]: the score of every candidate, as many groups and candidates at a time as make a block."""
    groups, count = samples.values.shape
    rows = max(1, BLOCK // count)
    columns = max(1, BLOCK // (min(rows, groups) * count))
    blocks = []
    for start in range(0, groups, rows):
        group = slice(start, start + rows)
        cells = None if samples.cells is None else samples.cells[group]
        part = replace(samples, values=samples.values[group], cells=cells)
        tried = zip(steps[:, group].split(columns), _split(zero_points, group, columns, len(steps)), strict=True)
        blocks.append(torch.cat([_scored(part, step, zeros, grid, score) for step, zeros in tried]))
    return torch.cat(blocks, dim=1)


def _split(values: Tensor | None, group: slice, columns: int, count: int) -> Sequence[Tensor | None]:
    return [None] * math.ceil(count / columns) if values is None else values[:, group].split(columns)


def _scored(samples: Samples, steps: Tensor, zeros: Tensor | None, grid: Grid, score: Score) -> Tensor:
    """samples of [groups, n], steps [candidates, groups]: a row for each candidate and group."""
    candidates, values, cells = len(steps), samples.values, samples.cells
    if candidates > 1:
        values = values.repeat(candidates, 1)
        cells = None if cells is None else cells.repeat(candidates, 1)
    zeros = None if zeros is None else zeros.reshape(-1, 1)
    rounded = fake_quantize(values, steps.reshape(-1, 1), zeros, grid)
    return score(values, rounded, cells, samples.counts).reshape(candidates, -1)


@dataclass(frozen=True)
class PowerError(Score):
    """mean |x - xhat|^p per group."""

    weighted = True

    exponent: float = 2.0

    def __call__(self, x: Tensor, rounded: Tensor, cells: Tensor | None, counts: Tensor | None) -> Tensor:
        error = x - rounded
        if self.exponent == 2:
            powers = error.square_()
        elif self.exponent == 1:
            powers = error.abs_()
        else:
            powers = error.abs_().log_().mul_(self.exponent).exp_()  # |error|^p, faster than pow
        return powers.mean(dim=1) if counts is None else (powers @ counts[0]) / counts.sum()


@dataclass(frozen=True)
class BiasedError(Score):
    """The power error and `weight` times its like of the mean error of each cell: a channel, at one time step.

    What is wrong on average over images comes back at the next step, what is random averages out. The mean's square is
    estimated without what the sampling adds to it; a tensor without cells is one cell.
    """

    error: PowerError
    weight: float

    def __call__(self, x: Tensor, rounded: Tensor, cells: Tensor | None, counts: Tensor | None) -> Tensor:
        difference = rounded - x
        where = torch.zeros_like(x, dtype=torch.long) if cells is None else cells
        zeros = x.new_zeros(len(x), int(where.amax()) + 1)
        count = zeros.scatter_add(1, where, torch.ones_like(x))
        total = zeros.scatter_add(1, where, difference)
        squares = zeros.scatter_add(1, where, difference.square())
        mean_square = (total.square() - squares).clamp_min(0) / (count * (count - 1)).clamp_min(1)
        bias = (mean_square.pow(self.error.exponent / 2) * count).sum(dim=1) / count.sum(dim=1)
        return self.error(x, rounded, cells, counts) + self.weight * bias


@dataclass(frozen=True)
class CosineError(Score):
    """1 - cos(x, xhat) per group (one of PTQ4DM's metrics)."""

    def __call__(self, x: Tensor, rounded: Tensor, cells: Tensor | None, counts: Tensor | None) -> Tensor:
        return 1 - torch.cosine_similarity(x, rounded, dim=1)


@dataclass(frozen=True)
class DivergenceError(Score):
    """KL(softmax x, softmax xhat) over the samples of a group (one of PTQ4DM's metrics)."""

    def __call__(self, x: Tensor, rounded: Tensor, cells: Tensor | None, counts: Tensor | None) -> Tensor:
        own, other = x.log_softmax(dim=1), rounded.log_softmax(dim=1)
        return (own.exp() * (own - other)).sum(dim=1)


SearchName = Literal["minmax", "percentile", "moving", "mse", "cosine", "kl", "lsq", "statistics"]


@dataclass(frozen=True)
class SearchSettings:
    """What the searches need: `exponent` p of mse's mean |error|^p, and `bias_weight` of the mean error per channel.

    `candidates` shrunken ranges from 1 down to `lowest` are tried before the finer search; `percentile` is the share of
    values that its search spans.
    """

    exponent: Positive = 2.0
    bias_weight: NonNegative = 0.0
    candidates: Annotated[Several, "steps that are tried"] = 80
    lowest: Annotated[float, Range(above=0, below=1), "the smallest step that is tried, a share of the range's"] = 0.21
    percentile: Annotated[float, Range(above=0.5, most=1), "share of the values inside, of the search percentile"] = (
        0.999
    )

    def __post_init__(self) -> None:
        check_types(self)

    def named(self, name: SearchName) -> Search:
        """The search of this name."""
        plain: dict[str, Search] = {
            "minmax": MinMax(),
            "percentile": Percentile(self.percentile),
            "moving": MovingRange(),
            "lsq": MeanMagnitude(),
            "statistics": Statistics(),
        }
        return plain[name] if name in plain else Shrink(self.score(name), self.candidates, self.lowest)

    def score(self, name: SearchName) -> Score:
        """What mse, cosine or kl minimise."""
        error = PowerError(self.exponent)
        scores: dict[str, Score] = {
            "mse": BiasedError(error, self.bias_weight) if self.bias_weight else error,
            "cosine": CosineError(),
            "kl": DivergenceError(),
        }
        return scores[name]


def _quantile(values: Tensor, fraction: float) -> Tensor:
    """Per row, by rank (nearest), for rows of any length."""
    rank = min(values.shape[1] - 1, max(0, round(fraction * (values.shape[1] - 1))))
    return values.kthvalue(rank + 1, dim=1).values
