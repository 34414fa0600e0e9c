"""What reached each quantiser at each time step, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.quantization.grid import SMALLEST_STEP, Grid
from parediff.quantization.quantizer import Quantizer, bypassed
from parediff.quantization.samples import Samples
from parediff.quantization.time_context import TimeContext


@dataclass(frozen=True)
class TimedSamples:
    """`values` [n, v]: v values of one activation tensor in each row, met at time step `t` [n].

    `low` and `high` [n] are the exact range of each row's tensor, `spread` [n] its standard deviation.
    """

    t: Tensor
    values: Tensor
    low: Tensor
    high: Tensor
    spread: Tensor

    def minus(self, offset: Tensor) -> TimedSamples:
        """Every value less `offset` []."""
        return TimedSamples(self.t, self.values - offset, self.low - offset, self.high - offset, self.spread)

    def pooled(self) -> Samples:
        """All of it as one group."""
        return Samples(self.values.reshape(1, -1), self.low.min()[None], self.high.max()[None])

    def at(self, t: Tensor) -> Samples:
        """What was met at one time step."""
        chosen = self.t == t
        return Samples(self.values[chosen].reshape(1, -1), self.low[chosen].min()[None], self.high[chosen].max()[None])


class TimedReservoir:
    """Keeps up to `rows` tensors per time step and `width` values of each: chosen evenly, reproducible by seed.

    Reservoir sampling per time step (Vitter's algorithm R), so that a trajectory's last calls count like its first.
    """

    def __init__(self, *, rows: int, width: int, seed: int) -> None:
        self.rows, self.width = rows, width
        self.generator = torch.Generator().manual_seed(seed)
        self.kept: dict[float, list[tuple[Tensor, ...]]] = {}
        self.seen: dict[float, int] = {}

    @torch.no_grad()
    def add(self, x: Tensor, t: Tensor) -> None:
        """One call's tensor x [B, ...] met at t [B] or [1]."""
        flat = x.detach().reshape(len(x), -1).float()
        if not bool(torch.isfinite(flat).all()):
            raise ValueError("the calibration data holds NaN or infinity")
        for row, step in zip(flat, t.expand(len(x)).tolist(), strict=True):
            place = self._place(float(step))
            if place is not None:
                kept = self.kept[float(step)]
                kept[place : place + 1] = [self._described(row)]

    def samples(self) -> TimedSamples:
        """What was kept, by ascending time step."""
        if not self.kept:
            raise ValueError("no calibration call reached this quantiser")
        rows = [(step, entry) for step in sorted(self.kept) for entry in self.kept[step]]
        columns = zip(*(entry for _, entry in rows), strict=True)
        values, low, high, spread = (torch.stack(column) for column in columns)
        return TimedSamples(torch.tensor([step for step, _ in rows], device=values.device), values, low, high, spread)

    def _place(self, step: float) -> int | None:
        """Where the next tensor of this time step goes, or None to drop it."""
        kept = self.kept.setdefault(step, [])
        self.seen[step] = seen = self.seen.get(step, 0) + 1
        if len(kept) < self.rows:
            return len(kept)
        drawn = int(torch.randint(seen, (), generator=self.generator))
        return drawn if drawn < self.rows else None

    def _described(self, row: Tensor) -> tuple[Tensor, ...]:
        index = torch.randint(len(row), (self.width,), generator=self.generator).to(row.device)
        return row[index], row.amin(), row.amax(), row.std(correction=0)


def steps_of(calls: Iterable[Call]) -> Tensor:
    """The distinct time steps of the calls, ascending, float64 [K]. No calls raise."""
    distinct: set[float] = set()
    for call in calls:
        distinct.update(call.t.double().tolist())
    if not distinct:
        raise ValueError("there is not a single calibration call")
    return torch.tensor(sorted(distinct), dtype=torch.float64)


def collect(
    model: DiffusionModel, calls: Iterable[Call], quantizers: Mapping[str, Quantizer], context: TimeContext,
    *, values: int, width: int, seed: int,
) -> dict[str, TimedSamples]:  # fmt: skip
    """What reaches each quantiser of the full-precision network; about `values` numbers are kept for each."""
    rows = max(1, values // width // len(context.known))
    reservoirs = {
        name: TimedReservoir(rows=rows, width=width, seed=seed + place) for place, name in enumerate(quantizers)
    }
    with observed(quantizers, reservoirs, context), bypassed(model.denoiser), torch.no_grad():
        for call in calls:
            model.predict(call.x, call.t, call.cond)
    return {name: reservoir.samples() for name, reservoir in reservoirs.items()}


@contextmanager
def observed(
    quantizers: Mapping[str, Quantizer], reservoirs: Mapping[str, TimedReservoir], context: TimeContext
) -> Iterator[None]:
    """What reaches each quantiser goes into its reservoir, with its time step, while the block runs."""

    def recorder(reservoir: TimedReservoir) -> Any:
        def record(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            reservoir.add(args[0], context.t)

        return record

    with ExitStack() as stack:
        for name, quantizer in quantizers.items():
            stack.callback(quantizer.register_forward_pre_hook(recorder(reservoirs[name])).remove)
        yield


def statistics_step(samples: TimedSamples, grid: Grid) -> Tensor:
    """The paper's first step: (mu + 3 sigma) / N, or (mu + 16 sigma) / (L - 1) after SiLU; means over all tensors."""
    sigmas = 16.0 if grid.offset else 3.0
    mean, spread = samples.values.mean(), samples.spread.mean()
    return ((mean + sigmas * spread) / grid.high).clamp_min(SMALLEST_STEP)
