"""Fitting interval generators to the best interval at every time step: TDQ after training (tdq.md, section 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from parediff.quantization.generated import Generated
from parediff.quantization.samples import Samples
from parediff.quantization.search import PowerError, Search, Shrink, Statistics, scores_of
from parediff.quantization.sources import Interval
from parediff.quantization.time_context import embedding_of
from parediff.validation import check_types, require

NUDGE = 0.1
"""The error's curvature is measured this share of the static interval around the best one."""


@dataclass(frozen=True)
class GeneratorFit:
    """Adam on sum_t (y - y*)^T H (y - y*), from the best static interval.

    y(t) is what the generator gives out, y*(t) what it should for the best interval at t, and H(t) the curvature of
    the error there, relative to the activation's energy or not: near its minimum that is the quantisation error itself.
    Every iteration sees all time steps and quantisers, and a random time between every two of them, with targets in
    between: the embedding turns once in 2 pi time steps, and a generator free between fitted times would swing there.
    The learning rate falls to zero along half a cosine. `initial`: `statistics` starts from the paper's mean + 3 sigma
    (16 sigma after SiLU) and `static` from the best static interval, and either stays there.
    """

    initial: Literal["statistics", "static", "fitted"]
    iterations: int
    learning_rate: float
    relative_error: bool
    dropout: float

    def __post_init__(self) -> None:
        check_types(self)
        require(self.iterations >= 0, "iterations", self.iterations, "0 or more")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "a positive number")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "a share from 0 to below 1")

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
        paired = list(zip([one.source for one in quantizers.values()], targets, strict=True))
        size = lambda pair: len(pair[0].last.bias)  # noqa: E731
        for _, alike in groupby(sorted(paired, key=size), key=size):
            sources, chosen = zip(*alike, strict=True)
            stack = Stack(sources)
            with torch.enable_grad():
                self._descend(stack, Targets.stacked(chosen), sources[0])
            stack.write_back(sources)

    def _descend(self, stack: Stack, targets: Targets, source: Generated) -> None:
        optimizer = torch.optim.Adam(stack.tensors, lr=self.learning_rate, foreach=True)
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
        score = search.score if isinstance(search, Shrink) else PowerError(2.0)
        nudges = list(product((-1, 0, 1), repeat=best.shape[2]))
        moved = torch.stack([best + NUDGE * unit[:, None] * best.new_tensor(nudge) for nudge in nudges]).clamp_min(0)
        intervals = [source.interval_of(one.flatten(1)) for one in moved]
        steps = torch.stack([one.flatten() for one, _ in intervals])
        zeros = None if intervals[0][1] is None else torch.stack([z.flatten() for _, z in intervals if z is not None])
        errors = scores_of(samples, steps, zeros, quantizer.grid, score).reshape(len(nudges), *best.shape[:2])
        exponent = getattr(getattr(score, "error", score), "exponent", 2.0)
        energy = samples.values.abs().pow(exponent).mean(dim=1).reshape(best.shape[:2])
        scale = energy.clamp_min(1e-6 * float(energy.mean())) if self.relative_error else energy.mean()
        curvature = _curvature(dict(zip(nudges, errors / scale.clamp_min(1e-20), strict=True)))
        return Targets(best, curvature, unit)


@dataclass(frozen=True)
class Targets:
    """`best` [..., K, groups, d] of what generators give out, the error's `curvature` [..., K, groups, d, d] around it
    in units of `unit` [..., groups]."""

    best: Tensor
    curvature: Tensor
    unit: Tensor

    @classmethod
    def stacked(cls, parts: Sequence[Targets]) -> Targets:
        columns = ([getattr(part, name) for part in parts] for name in ("best", "curvature", "unit"))
        return cls(*(torch.stack(column) for column in columns))

    def loss(self, reach: Tensor, share: Tensor) -> Tensor:
        """reach [quantisers, 2 K - 1, groups * d] at the known times, then a `share` [K - 1] of the way between."""
        part = share[:, None, None]
        best = torch.cat([self.best, torch.lerp(self.best[:, :-1], self.best[:, 1:], part)], dim=1)
        curvature = [self.curvature, torch.lerp(self.curvature[:, :-1], self.curvature[:, 1:], part[..., None])]
        off = (reach.reshape(best.shape) - best) / self.unit[:, None, :, None]
        return torch.einsum("qkgi,qkgij,qkgj->q", off, torch.cat(curvature, dim=1), off).sum() / reach.shape[1]


def _curvature(errors: Mapping[tuple[int, ...], Tensor]) -> Tensor:
    """[K, groups, d, d] by finite differences, made positive definite."""
    size = len(next(iter(errors)))
    centre = errors[(0,) * size]
    axes = torch.eye(size, dtype=torch.long).tolist()
    straight = [errors[tuple(a)] + errors[tuple(-i for i in a)] - 2 * centre for a in axes]
    floor = torch.stack(straight).clamp_min(0).mean() * 1e-3 + 1e-12
    straight = [one.clamp_min(float(floor)) for one in straight]
    matrix = torch.diag_embed(torch.stack(straight, dim=-1))
    if size == 2:
        mixed = (errors[1, 1] + errors[-1, -1] - errors[1, -1] - errors[-1, 1]) / 4
        most = 0.9 * (straight[0] * straight[1]).sqrt()
        matrix[..., 0, 1] = matrix[..., 1, 0] = torch.minimum(torch.maximum(mixed, -most), most)
    return matrix / (2 * NUDGE**2)


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
