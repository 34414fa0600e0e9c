"""Inter-noise estimation (QNCD, 3.3): the network predicts known noise, its mean error is subtracted from then on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from parediff.correction.bias import BiasEstimate
from parediff.correction.expected import table_of
from parediff.correction.renoising import ProbeNoise, clip_reach, falls, renoised, signal_levels, stepped
from parediff.errors import RequestError
from parediff.models.diffusion.door import Condition, Predict, Run, Sampled, Wrapper
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.reuse.engine import Reuse
from parediff.reuse.prediction import from_noise, kind_of, to_noise


@dataclass
class Tally:
    """Estimates over all runs: how many were taken, how many not gated away in full, and their means at each step."""

    taken: int = 0
    passed: int = 0
    sums: dict[int, tuple[float, int]] = field(default_factory=dict)

    def add(self, step: int, bias: Tensor) -> None:
        self.taken += 1
        self.passed += bool(bias.any())
        total, count = self.sums.get(step, (0.0, 0))
        self.sums[step] = total + float(bias.mean()), count + 1

    def proof(self) -> dict[str, Any]:
        """Counts, and the mean q at each step at which one was taken."""
        steps = sorted(self.sums)
        means = [self.sums[step][0] / self.sums[step][1] for step in steps]
        return {"taken": self.taken, "past_gate": self.passed, "steps": steps, "mean": means}


@dataclass(frozen=True)
class Schedule:
    """Estimates at the steps i with (i - 1) mod every = every // 2, between two shares of the steps."""

    every: int
    start: float = 0.0
    end: float = 1.0

    def due(self, index: int, steps: int) -> int:
        """The latest scheduled step that is not after `index`; -1 where there is none."""
        scheduled = [
            i
            for i in range(index + 1)
            if (i - 1) % self.every == self.every // 2 and i >= self.start * steps  # l = i + 1; (l - 2) mod R = R // 2
        ]
        return scheduled[-1] if scheduled and index < self.end * steps else -1


@dataclass
class Estimation:
    """Makes the wrapper of every run; only the tally outlives a run.

    Until it is `released`, runs pass of a network in which nothing is quantised, or of which it is not known what to
    expect: while other methods are calibrated there is no error yet, only the noise of estimating it.
    """

    schedule: Schedule
    estimate: BiasEstimate
    expected: bool = False  # the mean is held to what is expected of it, not to known noise
    released: bool = False
    tally: Tally = field(default_factory=Tally)

    def __call__(self, run: Run) -> Wrapper:
        if not self.released and not self._has_something_to_tell(run.model):
            return lambda network, x, t, cond: network(x, t, cond)
        check_scheduler(run.scheduler)
        return Estimator(self, run)

    def _has_something_to_tell(self, model: Sampled) -> bool:
        known = not self.expected or len(table_of(model).clock.known) > 0
        return known and quantized(model.denoiser)

    def check(self, model: DiffusionModel, sampler: Sampler) -> None:
        """Raise RequestError for an order of methods, or a scheduler, under which no estimate is possible."""
        check_order(model, self)
        check_scheduler(sampler.scheduler_for(model.pipeline))


class Estimator:
    """One run's bias: measured at scheduled steps, held until the next one, subtracted from every prediction.

    The scheduler sees corrected predictions only, so they are what a multistep history holds. Guidance in one batch or
    in two calls of a step comes to the same: each branch takes its own, unguided step and has an estimate of its own,
    and both meet the same known noise, so that guidance does not multiply what is chance in it.
    """

    def __init__(self, shared: Estimation, run: Run) -> None:
        self.shared, self.run = shared, run
        self.noise = ProbeNoise(run.seeds)
        self._bias: dict[int, Tensor] = {}
        self._taken: dict[int, int] = {}
        self._place = (-1, 0)
        self._drawn: tuple[int, Tensor] | None = None

    def __call__(self, network: Predict, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        if self.run.probing:
            return network(x, t, cond)
        branch = self._branch()
        before = self.run.evaluations
        output = network(x, t, cond)
        reached = self.run.evaluations > before
        due = self.shared.schedule.due(self.run.index, self.run.steps)
        if reached and due > self._taken.get(branch, -1):
            self._measure(network, x, t, cond, output, branch, due)
        bias = self._bias.get(branch) if due >= 0 else None
        return output if bias is None else self._without(bias, output, x, t)

    def _branch(self) -> int:
        """Which call of this step it is: 0 alone, or the second one of guidance in two calls."""
        index, count = self._place
        self._place = (index, count + 1) if index == self.run.index else (self.run.index, 0)
        return self._place[1]

    def _measure(
        self, network: Predict, x: Tensor, t: Tensor, cond: Condition, output: Tensor, branch: int, due: int
    ) -> None:
        """The mean error by either estimator, held from now on."""
        branches = len(x) // len(self.run.seeds)
        if self.shared.expected:
            excess, spread = table_of(self.run.model).excess(to_noise(output, x, t, self.run.scheduler), x, t)
            bias = self.shared.estimate.of(excess, branches) * spread
        else:
            error = self._of_known_noise(network, x, t, cond, output)
            if error is None:
                return
            bias = self.shared.estimate.of(error, branches)
        self._bias[branch], self._taken[branch] = bias, due
        self.shared.tally.add(self.run.index, bias)

    def _of_known_noise(self, network: Predict, x: Tensor, t: Tensor, cond: Condition, output: Tensor) -> Tensor | None:
        """network(x^, t) - z; None at a step that takes no noise away and leaves it to the next one."""
        levels = signal_levels(self.run, t, x)
        if not falls(levels):
            return None
        scheduler, channels = self.run.scheduler, x.shape[1]
        first = to_noise(output, x, t, scheduler)[:, :channels].to(levels[0].dtype)
        z = self._known(x)
        back = renoised(stepped(x.to(first), first, levels, clip_reach(scheduler)), z.to(first), levels).to(x)
        with probing(self.run):
            predicted = to_noise(network(back, t, cond), back, t, scheduler)[:, :channels]
        return predicted - z

    def _known(self, x: Tensor) -> Tensor:
        """z, drawn once a step."""
        if self._drawn is None or self._drawn[0] != self.run.index:
            self._drawn = (self.run.index, self.noise.draw(x))
        return self._drawn[1]

    def _without(self, bias: Tensor, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The raw output that means eps - q; channels of a learned variance stay."""
        channels = x.shape[1]
        noise = to_noise(output, x, t, self.run.scheduler).clone()
        noise[:, :channels] -= bias.to(noise)
        return from_noise(noise, x, t, self.run.scheduler)


@contextmanager
def probing(run: Run) -> Iterator[None]:
    """Calls whose x is no part of the trajectory."""
    run.probing = True
    try:
        yield
    finally:
        run.probing = False


def check_order(model: DiffusionModel, own: Estimation) -> None:
    """Raise where features are reused outside the estimate: a probe would then be kept as the keyframe's features."""
    factories = model.wrapper_factories
    outside = [factory for factory in factories[factories.index(own) + 1 :] if isinstance(factory, Reuse)]
    if outside:
        order = f"[{outside[0].owner},qncd]"
        raise RequestError("estimate_every", own.schedule.every, f"a method list in the order {order} is accepted")


def check_scheduler(scheduler: Any) -> None:
    """Raise for schedulers whose noise level does not follow from the time step."""
    kind_of(scheduler)
    if not hasattr(scheduler, "alphas_cumprod") or scheduler.config.get("use_flow_sigmas"):
        raise RequestError("sampler.scheduler", type(scheduler).__name__, "a scheduler with alphas_cumprod is accepted")


def quantized(denoiser: nn.Module) -> bool:
    """Whether anything computes on fewer than 32 bits now."""
    names = ("weight_bits", "activation_bits", "a_bits", "b_bits")
    return any(getattr(module, name, 32) < 32 for module in denoiser.modules() for name in names)
