"""Schedules that live in the denoiser's own tensors: learned logits, or a table of measured refreshes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from parediff.errors import RequestError
from parediff.reuse.engine import FULL, Step
from parediff.reuse.mixing import Mixing
from parediff.reuse.schedules import uniform

NAME = "reuse_schedule"
OPEN = 0.1
"""The logit that every gate starts from: sigmoid(0.1) rounds to open (Auto-FR's released code)."""


class Table(nn.Module):
    """`fresh` [cuts, steps]: which cuts are computed at which step; everything, until it was measured."""

    fresh: Tensor

    def __init__(self, cuts: int, steps: int) -> None:
        super().__init__()
        self.register_buffer("fresh", torch.ones(cuts, steps, dtype=torch.bool))

    @property
    def steps(self) -> int:
        return self.fresh.shape[1]


class Gates(nn.Module):
    """One logit per group of cuts and step after the first: open where positive, or the highest `keyframes` per group.

    The logits of a uniform schedule start a little higher, so that equal ones fall into it.
    """

    def __init__(self, groups: int, steps: int, keyframes: int | None) -> None:
        super().__init__()
        self.keyframes = keyframes
        logits = torch.full((groups, steps - 1), OPEN)
        if keyframes is not None:
            logits[:, [i - 1 for i in uniform(steps, math.ceil(steps / keyframes)) if i]] += 0.01
        self.logits = nn.Parameter(logits, requires_grad=False)

    @property
    def groups(self) -> int:
        return self.logits.shape[0]

    @property
    def steps(self) -> int:
        return self.logits.shape[1] + 1

    def hard(self) -> Tensor:
        """[groups, steps - 1] of 0 and 1. A logit of 0 is closed, as rounding 0.5 to even has it."""
        logits = self.logits.detach()
        if self.keyframes is None:
            return (logits > 0).to(logits.dtype)
        chosen = logits.topk(self.keyframes - 1, dim=1).indices
        return torch.zeros_like(logits).scatter_(1, chosen, 1.0)

    def straight_through(self) -> Tensor:
        """The hard gates with the gradient of sigmoid(logits)."""
        soft = self.logits.sigmoid()
        return self.hard() + soft - soft.detach()


Owned = TypeVar("Owned", Table, Gates)


def group_of(cut: int, cuts: int, groups: int) -> int:
    """Neighbouring cuts form a group."""
    return cut * groups // cuts


def attach(denoiser: nn.Module, schedule: nn.Module) -> None:
    """Let the network own its schedule, so that its state_dict carries it."""
    weight = next(denoiser.parameters())
    denoiser.add_module(NAME, schedule.to(weight.device))


def attached(denoiser: nn.Module, kind: type[Owned], steps: int | None = None) -> Owned:
    """The network's schedule; it serves runs of the number of steps it was made for."""
    schedule = getattr(denoiser, NAME)
    assert isinstance(schedule, kind)
    own = schedule.steps
    if steps is not None and steps != own:
        raise RequestError("sampler.steps", steps, f"{own}, the steps that the schedule was learned for, is accepted")
    return schedule


def table_plan(denoiser: nn.Module, steps: int, cuts: int) -> Sequence[Step]:
    """A step in full where the table says so for every cut, otherwise those that it names."""
    return [_step(row, cuts, 1.0) for row in attached(denoiser, Table, steps).fresh.T.tolist()]


def gates_plan(denoiser: nn.Module, steps: int, cuts: int, mixing: Mixing) -> Sequence[Step]:
    """Where every gate is closed the step is mixed or jumped; where some are open it is reuse of the others."""
    gates = attached(denoiser, Gates, steps)
    plan = [FULL]
    for step, column in enumerate(gates.hard().T.tolist(), start=1):
        fresh = [bool(column[group_of(cut, cuts, gates.groups)]) for cut in range(cuts)]
        plan.append(_step(fresh, cuts, 1.0 if any(fresh) else mixing(step / steps)))
    return plan


def _step(fresh: Sequence[bool], cuts: int, weight: float) -> Step:
    if all(fresh):
        return FULL
    return Step(frozenset(cut for cut in range(cuts) if fresh[cut]), weight)
