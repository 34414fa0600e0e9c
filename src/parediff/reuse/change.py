"""How much a network's features change from step to step, measured on recorded calls, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from parediff.errors import RequestError
from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.reuse.replacements import Cut, fill, flat, standing_in, tensors_of

Features = list[list[Tensor]]
"""The tensors at every cut."""


def features_of(model: DiffusionModel, cuts: Sequence[Cut], call: Call) -> list[list[Tensor]]:
    """The tensors at every cut for one call of the plain network."""
    changes = [change for cut in cuts for change in cut.keep]
    fill(cuts, [None] * len(cuts))
    try:
        with torch.no_grad(), standing_in(changes):
            model.predict(call.x, call.t, call.cond)
    finally:
        kept = tensors_of(cuts)
    return [flat(tensors) for tensors in kept]


def relative_changes(
    model: DiffusionModel, find: Callable[[nn.Module], list[Cut]], calls: Iterable[Call], steps: int
) -> Tensor:
    """[cuts, steps] mean |f_s - f_(s-1)| / mean |f_s|, averaged over trajectories; column 0 is 0.

    Where only some steps were recorded, a change is spread evenly over the steps it spans (Block Caching,
    arXiv 2312.03209, section 3.2, with L1 norms).
    """
    cuts = find(model.denoiser)
    sums, counts = torch.zeros(len(cuts), steps), torch.zeros(steps)
    for before, now, first, second in _pairs(calls, lambda call: features_of(model, cuts, call)):
        span = range(first + 1, min(second, steps - 1) + 1)
        change = torch.stack([_relative_change(a, b) for a, b in zip(before, now, strict=True)]).cpu()
        for step in span:
            sums[:, step] += change / (second - first)
            counts[step] += 1
    if not bool((counts[1:] > 0).any()):
        raise RequestError("calibration.steps", 1, "recorded calls of at least two steps of a trajectory are accepted")
    return sums / counts.clamp(min=1)


def _pairs(
    calls: Iterable[Call], features: Callable[[Call], Features]
) -> Iterable[tuple[Features, Features, int, int]]:
    """(features, later features, step, later step) of neighbours on one trajectory, for each call within a step."""
    streams: dict[int, tuple[int, Features]] = {}
    last, ordinal = -1, 0
    for call in calls:
        if call.step < last:
            streams = {}
        ordinal = ordinal + 1 if call.step == last else 0
        last = call.step
        now = features(call)
        step, before = streams.get(ordinal, (call.step, now))
        if step < call.step and _shapes(before) == _shapes(now):
            yield before, now, step, call.step
        streams[ordinal] = (call.step, now)


def _shapes(features: Features) -> list[list[torch.Size]]:
    return [[tensor.shape for tensor in tensors] for tensors in features]


def _relative_change(before: list[Tensor], now: list[Tensor]) -> Tensor:
    """Of all tensors of a cut together."""
    change = sum((a.float() - b.float()).abs().sum() for a, b in zip(before, now, strict=True))
    scale = sum(tensor.float().abs().sum() for tensor in now)
    count = sum(tensor.numel() for tensor in now)
    return torch.as_tensor(change / count) / torch.as_tensor(scale / count).clamp(min=1e-12)


def refreshed(changes: Tensor, threshold: float) -> Tensor:
    """[cuts, steps] bool: a cut is computed anew once its change since the last time exceeds `threshold`."""
    fresh = torch.zeros(changes.shape, dtype=torch.bool)
    fresh[:, 0] = True
    total = torch.zeros(len(changes))
    for step in range(1, changes.shape[1]):
        total = total + changes[:, step]
        fresh[:, step] = total > threshold
        total = torch.where(fresh[:, step], torch.zeros_like(total), total)
    return fresh


def within_budget(changes: Tensor, keyframes: int) -> Tensor:
    """[groups, steps] bool with exactly `keyframes` per row: the lowest threshold that keeps to it, by bisection."""
    return torch.stack([_row_within_budget(row[None], keyframes)[0] for row in changes])


def _row_within_budget(row: Tensor, keyframes: int) -> Tensor:
    low, high = 0.0, float(row.sum()) + 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if int(refreshed(row, middle).sum()) > keyframes else (low, middle)
    fresh = refreshed(row, high)
    missing = keyframes - int(fresh.sum())
    if missing > 0:
        left = row.masked_fill(fresh, -1.0)
        fresh[0, left[0].topk(missing).indices] = True
    return fresh
