"""The wrapper around a denoiser's door that runs it in full, in part, or not at all."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from torch import Tensor, nn

from parediff.errors import RequestError
from parediff.models.diffusion.door import Condition, Predict, Run
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.reuse.context import Context, blank
from parediff.reuse.prediction import from_noise, kind_of, to_noise
from parediff.reuse.replacements import Cut, Patch, Put, fill, hand_over, standing_in, tensors_of
from parediff.validation import Range


@dataclass(frozen=True)
class Step:
    """What one solver step does: which cuts it computes (None: all) and how much the network's prediction weighs.

    A weight of 0 is a jump: the keyframe's noise is held and the network not called. The first step computes all.
    """

    fresh: frozenset[int] | None = None
    weight: float = 1.0

    @property
    def full(self) -> bool:
        return self.fresh is None

    @property
    def jump(self) -> bool:
        return not self.full and self.weight <= 0


FULL = Step()
Extrapolation = Annotated[float, Range(0, 2), "share of a feature's last change that goes on between keyframes"]
Plan = Callable[[nn.Module, int, int], Sequence[Step]]
"""(denoiser, number of solver steps, number of cuts) to one `Step` each."""


@dataclass
class Tally:
    """Calls of the door over all runs, by what was done with them; forced ones had nothing to reuse."""

    full: int = 0
    reuse: int = 0
    jump: int = 0
    forced: int = 0

    def reset(self) -> None:
        """Forget what calibration did; what counts is the finished model's runs."""
        self.full = self.reuse = self.jump = self.forced = 0

    def shares(self) -> dict[str, float | int]:
        total = self.full + self.reuse + self.jump + self.forced
        counts: dict[str, float | int] = {"full": self.full + self.forced, "reuse": self.reuse, "jump": self.jump}
        return counts | {"forced": self.forced, "reused_share": (self.reuse + self.jump) / total if total else 0.0}


@dataclass(frozen=True)
class Reuse:
    """Makes the wrapper of every run; the only thing that outlives a run is the tally.

    `extrapolation` is the share of a feature's last change, from keyframe to keyframe, that goes on between them.
    """

    owner: str
    find: Callable[[nn.Module], list[Cut]]
    plan: Plan
    extrapolation: float = 0.0
    tally: Tally = field(default_factory=Tally)

    def __call__(self, run: Run) -> Reuser:
        return Reuser(self, run)

    def check(self, model: DiffusionModel, sampler: Sampler) -> None:
        """Raise RequestError for a run whose steps no plan can be made for, or whose predictions cannot be held."""
        if "strength" in model.options:  # image-to-image executes fewer steps than it is asked for
            return
        steps = self.plan(model.denoiser, sampler.steps, len(self.find(model.denoiser)))
        if any(step.weight < 1 for step in steps):
            kind_of(sampler.scheduler_for(model.pipeline))


class Reuser:
    """One run's features, held noise and place in the plan."""

    def __init__(self, reuse: Reuse, run: Run) -> None:
        self.run, self.tally = run, reuse.tally
        self.cuts = reuse.find(run.model.denoiser)
        self._plan, self._extrapolation = reuse.plan, reuse.extrapolation
        self._steps: Sequence[Step] | None = None
        self._contexts: list[Context] = []
        self._former: list[Context] = []
        self._keyframe = -1

    def __call__(self, network: Predict, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        if self.run.probing:
            return network(x, t, cond)
        index, steps = solver_step(self.run), self._table()
        step = steps[min(index, len(steps) - 1)]
        if step.full and index != self._keyframe:
            self._former, self._contexts, self._keyframe = self._contexts, [], index
        context = next((context for context in self._contexts if context.fits(x, cond)), None)
        if step.full or context is None:
            return self._full(network, x, t, cond, context, forced=not step.full)
        if step.jump:
            self.tally.jump += 1
            return self._held(context, x, t)
        self.tally.reuse += 1
        self._former.clear()
        return self._partly(network, x, t, cond, context, step)

    def _table(self) -> Sequence[Step]:
        """The plan, made at the first call: only then the scheduler knows its steps."""
        if self._steps is None:
            steps = self._plan(self.run.model.denoiser, solver_steps(self.run), len(self.cuts))
            if not steps[0].full:
                raise ValueError("step 0 has nothing to reuse: a plan starts in full")
            self._steps = steps
        return self._steps

    def _full(
        self, network: Predict, x: Tensor, t: Tensor, cond: Condition, context: Context | None, *, forced: bool
    ) -> Tensor:
        self.tally.full += not forced
        self.tally.forced += forced
        if context is None:
            context = Context(blank(x), cond, step=self._keyframe)
            if self._former:
                context.follow(self._former.pop(0), carries=self._extrapolation > 0)
            self._contexts.append(context)
        keeping, holding = self._read_again()
        spent, context.features = context.features, []
        if keeping:
            hand_over(self.cuts, spent)
            output, context.features = self._standing_in(network, x, t, cond, _changes(self.cuts, None), [])
        else:
            spent.clear()
            output = network(x, t, cond)
        context.noise = to_noise(output, x, t, self.run.scheduler) if holding else None
        return output

    def _partly(self, network: Predict, x: Tensor, t: Tensor, cond: Condition, context: Context, step: Step) -> Tensor:
        changes = _changes(self.cuts, step.fresh)
        kept = context.at(solver_step(self.run), self._extrapolation)
        output, after = self._standing_in(network, x, t, cond, changes, kept)
        if not context.earlier:  # what was carried on is of this step alone
            context.features = after
        if step.weight >= 1:
            return output
        held = self._held(context, x, t)
        return (step.weight * output.float() + (1 - step.weight) * held.float()).to(output.dtype)

    def _standing_in(
        self, network: Predict, x: Tensor, t: Tensor, cond: Condition, changes: list[Put | Patch], kept: list[Any]
    ) -> tuple[Tensor, list[Tensor | None]]:
        fill(self.cuts, kept or [None] * len(self.cuts))
        try:
            with standing_in(changes):
                output = network(x, t, cond)
        finally:
            features = tensors_of(self.cuts)
        return output, features

    def _held(self, context: Context, x: Tensor, t: Tensor) -> Tensor:
        assert context.noise is not None
        return from_noise(context.noise, x, t, self.run.scheduler)

    def _read_again(self) -> tuple[bool, bool]:
        """Whether a later call, up to the next keyframe, reads the features, and whether one reads the held noise.

        Features that are carried on are read after the next keyframe too.
        A further call of a keyframe, as second-order solvers make, computes all again; one of another step reads.
        """
        index, steps = solver_step(self.run), self._table()
        following = steps[index + steps[min(index, len(steps) - 1)].full :]
        until = next((i for i, step in enumerate(following) if step.full), len(following))
        stretch = following[:until]
        reading = following if self._extrapolation else stretch
        reads = any(not (step.full or step.jump) for step in reading)
        return reads, any(step.weight < 1 for step in stretch)


def _changes(cuts: list[Cut], fresh: frozenset[int] | None) -> list[Put | Patch]:
    chosen = (cut.keep if fresh is None or i in fresh else cut.recall for i, cut in enumerate(cuts))
    return [change for changes in chosen for change in changes]


def solver_step(run: Run) -> int:
    """The step of the solver: a second-order one calls twice a step, and both calls share its decision."""
    return run.index // getattr(run.scheduler, "order", 1)


def solver_steps(run: Run) -> int:
    """Executed steps of the solver (2 T - 1 calls of second order are T steps)."""
    return math.ceil(run.steps / getattr(run.scheduler, "order", 1))


def in_full(model: DiffusionModel) -> DiffusionModel:
    """The same network and pipeline with nothing reused, for runs of their own."""
    plain = copy.copy(model)
    plain.wrapper_factories = [factory for factory in model.wrapper_factories if not isinstance(factory, Reuse)]
    return plain


def install(model: DiffusionModel, reuse: Reuse) -> None:
    """Wrap the door, once the network is known to have the cuts."""
    refuse_second(model, reuse.owner)
    reuse.find(model.denoiser)
    model.wrap(reuse)


def refuse_second(model: DiffusionModel, owner: str) -> None:
    """Raise RequestError where another method reuses features already: two cannot reuse the same."""
    earlier = [factory.owner for factory in model.wrapper_factories if hasattr(factory, "owner")]
    if earlier:
        raise RequestError("method", f"[{earlier[0]},{owner}]", "one method that reuses features is accepted")


def installed(model: DiffusionModel, owner: str) -> Reuse:
    """What `install` put around the door of this model, or of the one that it was copied from."""
    return next(f for f in model.wrapper_factories if isinstance(f, Reuse) and f.owner == owner)
