"""Fitting step generators to what their quantisers met: TDQ after training (tdq.md, section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from parediff.quantization.arithmetic import fake_quantize
from parediff.quantization.generated import Generated
from parediff.quantization.grid import Grid
from parediff.quantization.quantizer import Quantizer
from parediff.quantization.search import BLOCK, Search
from parediff.quantization.time_context import embedding_of
from parediff.quantization.timed_samples import TimedSamples

CANDIDATES = 128
LOWEST, HIGHEST = 1 / 16, 8.0
"""The error is known at so many steps, evenly spaced in log, between these multiples of the best static step."""


@dataclass(frozen=True)
class ErrorCurves:
    """`errors` [quantisers, K, candidates]: mean |q(A(t_k); s) - A(t_k)|^2 at the candidate steps of each quantiser."""

    errors: Tensor
    lowest: Tensor

    @property
    def gap(self) -> float:
        """Between two candidates, in log."""
        return float(torch.log(torch.tensor(HIGHEST / LOWEST))) / (self.errors.shape[2] - 1)

    def between(self, steps: Tensor, share: Tensor) -> Tensor:
        """The error at steps [quantisers, K - 1] for a time a `share` [K - 1] of the way from t_k to t_(k+1)."""
        before, after = (ErrorCurves(part, self.lowest).at(steps) for part in (self.errors[:, :-1], self.errors[:, 1:]))
        return before + (after - before) * share

    def at(self, steps: Tensor) -> Tensor:
        """The error at steps [quantisers, K], between candidates linear in log s."""
        place = ((steps.log() - self.lowest.log()[:, None]) / self.gap).clamp(0, self.errors.shape[2] - 1.001)
        below = place.detach().floor().long()
        left, right = (self.errors.gather(2, (below + i)[..., None])[..., 0] for i in (0, 1))
        return left + (right - left) * (place - below)


@dataclass(frozen=True)
class GeneratorFit:
    """Adam on mean_t |q(A(t); s(t)) - A(t)|^2, relative to mean A(t)^2 or not, from the best static step.

    The error is a function of s alone, so it is measured once at many steps; every iteration then sees all time steps
    and all quantisers. It also sees a random time between every two of them, whose error is taken to lie between
    theirs: the embedding turns once in 2 pi time steps, and a generator free between fitted times would swing there.
    The learning rate falls to zero along half a cosine.
    """

    search: Search
    iterations: int
    learning_rate: float
    relative: bool

    def fit(self, quantizers: Sequence[Quantizer], samples: Sequence[TimedSamples]) -> None:
        """Fill every quantiser's generator and switch it on."""
        starts = []
        for quantizer, seen in zip(quantizers, samples, strict=True):
            step, _ = self.search.fit(seen.pooled(), quantizer.grid)
            quantizer.fill(step[0])
            starts.append(step[0])
        chosen = [place for place, quantizer in enumerate(quantizers) if not quantizer.grid.identity]
        if not chosen or self.iterations == 0:
            return
        curves = self._curves(
            [quantizers[i].grid for i in chosen], [samples[i] for i in chosen], [starts[i] for i in chosen]
        )
        sources = [_generated(quantizers[i]) for i in chosen]
        stack = Stack(sources)
        with torch.enable_grad():
            self._descend(stack, curves, samples[0].t.unique(), sources[0].context.channels)
        stack.write_back(sources)

    def _descend(self, stack: Stack, curves: ErrorCurves, t: Tensor, channels: int) -> None:
        optimizer = torch.optim.Adam(stack.tensors, lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.iterations)
        generator = torch.Generator().manual_seed(0)
        known = embedding_of(t, channels)
        for _ in range(self.iterations):
            share = torch.rand(len(t) - 1, generator=generator).to(t)
            steps = stack.steps(torch.cat([known, embedding_of(t[:-1] + share * t.diff(), channels)]))
            fitted, inner = steps.split([len(t), len(t) - 1], dim=1)
            errors = torch.cat([curves.at(fitted), curves.between(inner, share.to(inner))], dim=1)
            loss = errors.mean(dim=1).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()

    def _curves(self, grids: Sequence[Grid], samples: Sequence[TimedSamples], starts: Sequence[Tensor]) -> ErrorCurves:
        """Each divided by mean A(t)^2, or by the mean of A^2 over all time."""
        factors = torch.logspace(0, 1, CANDIDATES, base=HIGHEST / LOWEST) * LOWEST
        rows = []
        for grid, seen, start in zip(grids, samples, starts, strict=True):
            parts = [seen.at(t).values for t in seen.t.unique()]
            energy = torch.stack([part.square().mean() for part in parts])
            scale = energy.clamp_min(1e-6 * float(energy.mean())) if self.relative else energy.mean()
            errors = torch.stack([_errors(part, factors.to(start) * start, grid) for part in parts])
            rows.append(errors / scale.clamp_min(1e-20).reshape(-1, 1))
        return ErrorCurves(torch.stack(rows), torch.stack(list(starts)) * LOWEST)


@torch.no_grad()
def _errors(values: Tensor, steps: Tensor, grid: Grid) -> Tensor:
    """[candidates]: mean |q(values; step) - values|^2, some candidates at a time."""
    found = []
    for part in steps.split(max(1, BLOCK // values.shape[1])):
        rounded = fake_quantize(values.expand(len(part), -1), part[:, None], None, grid)
        found.append((rounded - values).square().mean(dim=1))
    return torch.cat(found)


class Stack:
    """The generators of many quantisers as one batched network; `tensors` are what is trained."""

    def __init__(self, sources: Sequence[Generated]) -> None:
        layers = [[*source.hidden, source.last] for source in sources]
        self.weights = [_stacked([row[i].weight for row in layers]) for i in range(len(layers[0]))]
        self.biases = [_stacked([row[i].bias for row in layers])[:, None] for i in range(len(layers[0]))]
        self.tensors = [tensor.detach().clone().requires_grad_() for tensor in (*self.weights, *self.biases)]
        self.weights, self.biases = self.tensors[: len(self.weights)], self.tensors[len(self.weights) :]

    def steps(self, embedding: Tensor) -> Tensor:
        """s [quantisers, K] for e(t) [K, d], without dropout."""
        hidden = embedding.expand(len(self.weights[0]), -1, -1)
        for place, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, hidden, weight.transpose(1, 2))
            hidden = F.relu(hidden) if place < len(self.weights) - 1 else F.softplus(hidden)
        return hidden[..., 0]

    @torch.no_grad()
    def write_back(self, sources: Sequence[Generated]) -> None:
        for row, source in enumerate(sources):
            for place, layer in enumerate([*source.hidden, source.last]):
                layer.weight.copy_(self.weights[place][row])
                layer.bias.copy_(self.biases[place][row, 0])
            source.table = None


def _stacked(tensors: Sequence[Tensor | nn.Parameter]) -> Tensor:
    return torch.stack([tensor.detach() for tensor in tensors])


def _generated(quantizer: Quantizer) -> Generated:
    if not isinstance(quantizer.source, Generated):
        raise TypeError(f"a Generated step source is fitted here, not {type(quantizer.source).__name__}")
    return quantizer.source
