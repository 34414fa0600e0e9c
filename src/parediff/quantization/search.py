"""Choosing a step: a search sees the samples and the grid that will be used, and nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from parediff.quantization.arithmetic import fake_quantize
from parediff.quantization.grid import Grid
from parediff.quantization.samples import Samples

Fit = tuple[Tensor, Tensor | None]
Score = Callable[[Tensor, Tensor], Tensor]
"""(x [groups, n], xhat [groups, n]) to a badness per group."""
Ranges = Callable[[Tensor], tuple[Tensor, Tensor]]
"""What is tried, [candidates, groups], to the low and high ends it stands for."""

BLOCK = 2**15
"""Values per block: small enough for a core's cache, so that all candidates are tried on it without going to memory."""


class Search(ABC):
    """Finds (step [groups], zero point [groups] or None) of a grid for samples."""

    @abstractmethod
    def fit(self, samples: Samples, grid: Grid) -> Fit:
        """Step and zero point per group."""


@dataclass(frozen=True)
class MinMax(Search):
    """The grid spans everything that was seen."""

    def fit(self, samples: Samples, grid: Grid) -> Fit:
        return grid.fit(samples.low, samples.high)


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
        low, high = self._together(samples, grid)
        for _ in range(self.rounds if grid.has_zero_point else 0):
            high = self._one_end(samples, grid, high, samples.high, partial(_above, low))
            low = self._one_end(samples, grid, low, samples.low, partial(_below, high))
        return grid.fit(low, high)

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
        scores = scores_of(samples.values, step, zero_point, grid, self.score)
        return tried.gather(0, scores.argmin(dim=0, keepdim=True))[0]


def _shrunken(low: Tensor, high: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    return low * factor, high * factor


def _above(low: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    return low.expand_as(end), end


def _below(high: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    return end, high.expand_as(end)


def scores_of(values: Tensor, steps: Tensor, zero_points: Tensor | None, grid: Grid, score: Score) -> Tensor:
    """[candidates, groups]: the score of every candidate on values [groups, n], some groups at a time."""
    rows = max(1, BLOCK // values.shape[1])
    blocks = []
    for start in range(0, len(values), rows):
        part, group = values[start : start + rows], slice(start, start + rows)
        zeros = None if zero_points is None else zero_points[:, group, None]
        candidates = [
            score(part, fake_quantize(part, step, None if zeros is None else zeros[index], grid))
            for index, step in enumerate(steps[:, group, None])
        ]
        blocks.append(torch.stack(candidates))
    return torch.cat(blocks, dim=1)


@dataclass(frozen=True)
class PowerError:
    """mean |x - xhat|^p per group."""

    exponent: float = 2.0

    def __call__(self, x: Tensor, rounded: Tensor) -> Tensor:
        error = x - rounded
        if self.exponent == 2:
            return torch.einsum("gn,gn->g", error, error) / error.shape[1]
        if self.exponent == 1:
            return error.abs_().mean(dim=1)
        return error.abs_().log_().mul_(self.exponent).exp_().mean(dim=1)  # |error|^p, faster than pow


@dataclass(frozen=True)
class CosineError:
    """1 - cos(x, xhat) per group (one of PTQ4DM's metrics)."""

    def __call__(self, x: Tensor, rounded: Tensor) -> Tensor:
        return 1 - torch.cosine_similarity(x, rounded, dim=1)


@dataclass(frozen=True)
class DivergenceError:
    """KL(softmax x, softmax xhat) over the samples of a group (one of PTQ4DM's metrics)."""

    def __call__(self, x: Tensor, rounded: Tensor) -> Tensor:
        own, other = x.log_softmax(dim=1), rounded.log_softmax(dim=1)
        return (own.exp() * (own - other)).sum(dim=1)


def search_named(
    name: str, *, exponent: float = 2.0, candidates: int = 80, lowest: float = 0.21, fraction: float = 0.999
) -> Search:
    """minmax, percentile, mse (mean |error|^exponent), cosine or kl."""
    if name == "minmax":
        return MinMax()
    if name == "percentile":
        return Percentile(fraction)
    scores: dict[str, Score] = {"mse": PowerError(exponent), "cosine": CosineError(), "kl": DivergenceError()}
    return Shrink(scores[name], candidates, lowest)


def _quantile(values: Tensor, fraction: float) -> Tensor:
    """Per row, by rank (nearest), for rows of any length."""
    rank = min(values.shape[1] - 1, max(0, round(fraction * (values.shape[1] - 1))))
    return values.kthvalue(rank + 1, dim=1).values
