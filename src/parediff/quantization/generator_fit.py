"""Fitting interval generators to the best interval at every time step: TDQ after training (tdq.md, section 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import groupby, product
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from parediff.quantization.generated import Generated
from parediff.quantization.samples import Samples
from parediff.quantization.search import PowerError, Score, Search, Shrink, Statistics, scores_of
from parediff.quantization.sources import Interval
from parediff.quantization.time_context import embedding_of
from parediff.validation import Below1, Positive, Whole, check_types

BETAS = (0.8, 0.99)
"""Of Adam: 120 steps do what 200 do with the usual ones."""
NUDGE = 0.1
"""The error's curvature is measured this share of the static interval around the best one."""


@dataclass(frozen=True)
class GeneratorFit:
    """Adam on sum_t (y - y*)^T H (y - y*), from the best static interval.

    y(t) is what the generator gives out, y*(t) what it should for the best interval at t, and H(t) the curvature of
    the error there, relative to the activation's energy or not: near its minimum that is the quantisation error itself.
    It is taken on the side on which y lies, since clipping costs more than a wide step at many bits. A generator that
    ends above the static interval's error, as a time embedding's may, goes back to it. Every iteration sees all time
    steps and quantisers, and a random time between every two of them, with targets in between: the embedding turns once
    in 2 pi time steps, and a generator free between fitted times would swing there. The learning rate falls to zero
    along half a cosine. `initial`: `statistics` starts from the paper's mean + 3 sigma (16 sigma after SiLU) and
    `static` from the best static interval, and either stays there.
    """

    initial: Literal["statistics", "static", "fitted"]
    iterations: Whole
    learning_rate: Annotated[Positive, "of Adam, falls to zero"]
    relative_error: bool
    dropout: Below1

    def __post_init__(self) -> None:
        check_types(self)

    @property
    def start(self) -> Search | None:
        """What finds the static interval, where it is not the activations' own search."""
        return Statistics() if self.initial == "statistics" else None

    @property
    def fits(self) -> bool:
        return self.initial == "fitted" and self.iterations > 0

    def fit(
        self, quantizers: Mapping[str, Any], samples: Mapping[str, Samples], tables: Mapping[str, Interval],
        search: Search,
    ) -> None:  # fmt: skip
        """Fit the generators of filled quantisers to tables over the context's known time steps."""
        targets = [self._target(one, samples[name], tables[name], search) for name, one in quantizers.items()]
        before = {name: one.source.over_time() for name, one in quantizers.items()}
        paired = list(zip([one.source for one in quantizers.values()], targets, strict=True))
        size = lambda pair: len(pair[0].last.bias)  # noqa: E731
        for _, alike in groupby(sorted(paired, key=size), key=size):
            sources, chosen = zip(*alike, strict=True)
            stack = Stack(sources)
            with torch.enable_grad():
                self._descend(stack, Targets.stacked(chosen), sources[0])
            stack.write_back(sources)
        for name, one in quantizers.items():
            static, fitted = (
                self._error(one, samples[name], interval, search) for interval in (before[name], one.source.over_time())
            )
            if not fitted < static:
                one.source.hold(before[name])

    def _error(self, quantizer: Any, samples: Samples, interval: Interval, search: Search) -> float:
        """Mean over time of a table's error, relative to the activations' energy where that is asked for."""
        step, zero_point = (None if one is None else one.reshape(1, -1) for one in interval)
        assert step is not None
        score = _score(search)
        errors = scores_of(samples, step, zero_point, quantizer.grid, score)[0]
        return float((errors / self._scale(samples, score)).mean())

    def _scale(self, samples: Samples, score: Score) -> Tensor:
        """[K * groups]: the energy at each time, or of all time."""
        power = PowerError(getattr(getattr(score, "error", score), "exponent", 2.0))
        energy = power(samples.values, torch.zeros_like(samples.values), None, samples.counts)
        floor = 1e-6 * float(energy.mean()) + 1e-20
        return energy.clamp_min(floor) if self.relative_error else energy.mean().clamp_min(1e-20).expand_as(energy)

    def _descend(self, stack: Stack, targets: Targets, source: Generated) -> None:
        optimizer = torch.optim.Adam(stack.tensors, lr=self.learning_rate, betas=BETAS, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.iterations)
        generator = torch.Generator().manual_seed(0)
        t, channels = source.context.known, source.context.channels
        known = embedding_of(t, channels)
        for _ in range(self.iterations):
            share = torch.rand(len(t) - 1, generator=generator).to(t)
            reach = stack.reach(torch.cat([known, embedding_of(t[:-1] + share * t.diff(), channels)]))
            loss = targets.loss(reach, share.to(reach))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()

    def _target(self, quantizer: Any, samples: Samples, table: Interval, search: Search) -> Targets:
        source, (step, _) = quantizer.source, table
        best = source.reach_of(*table).reshape(len(step), -1, 2 if quantizer.grid.has_zero_point else 1)
        unit = best.sum(dim=2).mean(dim=0).clamp_min(1e-12)  # [groups]: how far the intervals reach, on average
        nudges = list(product((-1, 0, 1), repeat=best.shape[2]))
        moved = torch.stack([best + NUDGE * unit[:, None] * best.new_tensor(nudge) for nudge in nudges]).clamp_min(0)
        intervals = [source.interval_of(one.flatten(1)) for one in moved]
        steps = torch.stack([one.flatten() for one, _ in intervals])
        zeros = None if intervals[0][1] is None else torch.stack([z.flatten() for _, z in intervals if z is not None])
        score = _score(search)
        errors = scores_of(samples, steps, zeros, quantizer.grid, score) / self._scale(samples, score)
        shaped = errors.reshape(len(nudges), *best.shape[:2])
        return Targets(best, *_curvatures(dict(zip(nudges, shaped, strict=True))), unit)


def _score(search: Search) -> Score:
    return search.score if isinstance(search, Shrink) else PowerError(2.0)


@dataclass(frozen=True)
class Targets:
    """`best` [..., K, groups, d] of what generators give out, and the error around it in units of `unit` [..., groups]:
    `below` and `above` [..., K, groups, d] the curvatures on either side, `mixed` [..., K, groups] between two numbers.
    """

    best: Tensor
    below: Tensor
    above: Tensor
    mixed: Tensor
    unit: Tensor

    @classmethod
    def stacked(cls, parts: Sequence[Targets]) -> Targets:
        columns = ([getattr(part, field.name) for part in parts] for field in fields(cls))
        return cls(*(torch.stack(column) for column in columns))

    def loss(self, reach: Tensor, share: Tensor) -> Tensor:
        """reach [quantisers, 2 K - 1, groups * d] at the known times, then a `share` [K - 1] of the way between."""

        def with_between(value: Tensor) -> Tensor:
            part = share.reshape(-1, *[1] * (value.ndim - 2))
            return torch.cat([value, torch.lerp(value[:, :-1], value[:, 1:], part)], dim=1)

        best = with_between(self.best)
        off = (reach.reshape(best.shape) - best) / self.unit[:, None, :, None]
        straight = torch.where(off < 0, with_between(self.below), with_between(self.above)) * off.square()
        both = with_between(self.mixed) * off.prod(dim=3) * (off.shape[3] - 1)
        return (straight.sum(dim=3) + both).sum() / reach.shape[1]


def _curvatures(errors: Mapping[tuple[int, ...], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """(below, above, mixed) by finite differences; never less than convex."""
    size = len(next(iter(errors)))
    centre = errors[(0,) * size]
    axes = torch.eye(size, dtype=torch.long).tolist()
    below, above = (
        torch.stack([errors[tuple(sign * i for i in axis)] - centre for axis in axes], dim=-1) for sign in (-1, 1)
    )
    floor = 1e-3 * float(torch.cat([below, above]).clamp_min(0).mean()) + 1e-12
    below, above = below.clamp_min(floor), above.clamp_min(floor)
    mixed = torch.zeros_like(centre)
    if size == 2:
        most = 1.8 * torch.minimum(below, above).prod(dim=-1).sqrt()
        found = (errors[1, 1] + errors[-1, -1] - errors[1, -1] - errors[-1, 1]) / 4
        mixed = torch.minimum(torch.maximum(found, -most), most)
    return tuple(one / NUDGE**2 for one in (below, above, mixed))  # type: ignore[return-value]


class Stack:
    """The generators of many quantisers as one batched network; `tensors` are what is trained."""

    def __init__(self, sources: Sequence[Generated]) -> None:
        layers = [[*source.hidden, source.last] for source in sources]
        weights = [_stacked([row[i].weight for row in layers]) for i in range(len(layers[0]))]
        biases = [_stacked([row[i].bias for row in layers])[:, None] for i in range(len(layers[0]))]
        self.tensors = [tensor.requires_grad_() for tensor in (*weights, *biases)]
        self.weights, self.biases = self.tensors[: len(weights)], self.tensors[len(weights) :]

    def reach(self, embedding: Tensor) -> Tensor:
        """[quantisers, K, numbers] for e(t) [K, d], without dropout."""
        hidden = embedding.expand(len(self.weights[0]), -1, -1)
        for place, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, hidden, weight.transpose(1, 2))
            hidden = F.relu(hidden) if place < len(self.weights) - 1 else F.softplus(hidden)
        return hidden

    @torch.no_grad()
    def write_back(self, sources: Sequence[Generated]) -> None:
        for row, source in enumerate(sources):
            for place, layer in enumerate([*source.hidden, source.last]):
                layer.weight.copy_(self.weights[place][row])
                layer.bias.copy_(self.biases[place][row, 0])
            source.forget()


def _stacked(tensors: Sequence[Tensor | nn.Parameter]) -> Tensor:
    return torch.stack([tensor.detach() for tensor in tensors]).clone()
