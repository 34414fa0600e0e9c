"""One block after the other made to repeat the full-precision block's output (BRECQ, arXiv 2102.05426; Q-Diffusion)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.quantization.generated import Generated
from parediff.quantization.layers import FoldableLayer
from parediff.quantization.quantizer import Quantizer, bypassed
from parediff.quantization.rounding import RoundedQuantizer, softly
from parediff.quantization.sources import Learned
from parediff.quantization.time_context import TimeContext, find_time_context

UNITS = ("ResnetBlock2D", "BasicTransformerBlock", "Attention")
"""diffusers' blocks that are reconstructed as a whole; elsewhere single layers are."""


@dataclass(frozen=True)
class Reconstruction:
    """Rounding first (loss exponent 2), then the activations' steps (exponent 2.4), both by Adam, unit by unit.

    Inputs come from the quantised network before the unit, targets from the full-precision one. At most `rows` samples
    of the calls are used, a quarter of which is held out: a unit whose held-out error does not fall is rolled back.
    """

    iterations: int
    step_iterations: int
    batch: int
    rows: int
    learning_rate: float
    step_learning_rate: float
    regularisation: float
    warmup: float = 0.2

    def run(self, model: DiffusionModel, calls: Iterable[Call], generator: torch.Generator) -> dict[str, Outcome]:
        """Reconstruct every unit, in the order in which they run; what became of each."""
        chosen = _some(calls, self.rows)
        outcomes = {}
        for path in units(model, chosen[0]):
            data = Data.of(model, path, chosen)
            unit = model.denoiser.get_submodule(path)
            rounding = self._learn_rounding(unit, data, generator)
            steps = self._learn_steps(unit, data, generator)
            outcomes[path] = Outcome(*rounding, *steps[1:])
        return outcomes

    def _learn_rounding(self, unit: nn.Module, data: Data, generator: torch.Generator) -> tuple[float, float]:
        weights = [(q, part) for layer in _layers(unit) for q, part in layer.weight_parts()]
        chosen = [(q, part) for q, part in weights if isinstance(q, RoundedQuantizer) and q.on]
        before = data.held_out_error(unit, 2.0)
        if not chosen or not self.iterations:
            return before, before
        for quantizer, part in chosen:
            quantizer.start(part)
        rounders = [quantizer for quantizer, _ in chosen]
        with softly(rounders) as parameters, torch.enable_grad():
            optimizer = torch.optim.Adam(parameters, lr=self.learning_rate)
            for iteration in range(self.iterations):
                loss = data.error(unit, 2.0, self.batch, generator)
                loss = loss + self._penalty(rounders, iteration / self.iterations)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
        after = data.held_out_error(unit, 2.0)
        if not after < before:
            for quantizer in rounders:
                quantizer.forget()
            after = before
        return before, after

    def _penalty(self, rounders: Sequence[RoundedQuantizer], progress: float) -> Tensor | float:
        """0.01 sum(1 - |2h - 1|^beta), beta from 20 to 2, off at first."""
        if progress < self.warmup:
            return 0.0
        beta = 20 - 18 * (progress - self.warmup) / (1 - self.warmup)
        terms = [(1 - (2 * quantizer.share - 1).abs().pow(beta)).sum() for quantizer in rounders]
        return self.regularisation * torch.stack(terms).sum()

    def _learn_steps(self, unit: nn.Module, data: Data, generator: torch.Generator) -> tuple[float, float, float]:
        parameters = _step_parameters(unit)
        before = data.held_out_error(unit, 2.4)
        if not parameters or not self.step_iterations:
            return before, before, before
        kept = [parameter.detach().clone() for parameter in parameters]
        for parameter in parameters:
            parameter.requires_grad_(True)
        optimizer = torch.optim.Adam(parameters, lr=self.step_learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.step_iterations)
        with torch.enable_grad():
            for _ in range(self.step_iterations):
                loss = data.error(unit, 2.4, self.batch, generator)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
        after = data.held_out_error(unit, 2.4)
        if not after < before:
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.data.copy_(value)
        for parameter in parameters:
            parameter.requires_grad_(False)
        return before, before, min(before, after)


@dataclass(frozen=True)
class Outcome:
    """Held-out errors of one unit: of its rounding (exponent 2) and of its steps (2.4), before and after."""

    rounding_before: float
    rounding_after: float
    steps_before: float
    steps_after: float


@dataclass(frozen=True)
class Data:
    """A unit's arguments as the quantised network gives them, its full-precision outputs, and their time steps.

    Every fourth row of all is held out, so that all time steps are on both sides; of fewer than four rows the last.
    """

    arguments: list[tuple[tuple[Any, ...], dict[str, Any]]]
    targets: list[Tensor]
    times: list[Tensor]
    context: TimeContext | None

    @classmethod
    @torch.no_grad()
    def of(cls, model: DiffusionModel, path: str, calls: Sequence[Call]) -> Data:
        unit = model.denoiser.get_submodule(path)
        arguments: list[Any] = []
        targets: list[Tensor] = []
        times: list[Tensor] = []
        for call in calls:
            with bypassed(model.denoiser), _Seen(unit) as plain:
                model.predict(call.x, call.t, call.cond)
            with _Seen(unit) as rounded:
                model.predict(call.x, call.t, call.cond)
            targets += [output for _, _, output in plain]
            arguments += [(args, kwargs) for args, kwargs, _ in rounded]
            times += [call.t] * len(plain)
        return cls(arguments, targets, times, find_time_context(model.denoiser))

    def split(self) -> list[tuple[Tensor, Tensor]]:
        """(rows to learn from, held-out rows) of every call."""
        sizes = [len(target) for target in self.targets]
        held = torch.arange(sum(sizes)) % 4 == min(3, sum(sizes) - 1)
        return [((~part).nonzero().flatten(), part.nonzero().flatten()) for part in held.split(sizes)]

    def error(self, unit: nn.Module, exponent: float, batch: int, generator: torch.Generator) -> Tensor:
        """Of random rows of one random call."""
        split = self.split()
        usable = [place for place, (learned, _) in enumerate(split) if len(learned)]
        if not usable:
            raise ValueError("one calibration sample cannot be both learned from and held out: record more")
        place = usable[int(torch.randint(len(usable), (), generator=generator))]
        rows = split[place][0]
        return self._error(unit, place, rows[torch.randperm(len(rows), generator=generator)[:batch]], exponent)

    @torch.no_grad()
    def held_out_error(self, unit: nn.Module, exponent: float) -> float:
        """The mean over the held-out rows."""
        held = [(place, rows) for place, (_, rows) in enumerate(self.split()) if len(rows)]
        total = sum(len(rows) * float(self._error(unit, place, rows, exponent)) for place, rows in held)
        return total / sum(len(rows) for _, rows in held)

    def _error(self, unit: nn.Module, place: int, rows: Tensor, exponent: float) -> Tensor:
        (args, kwargs), target = self.arguments[place], self.targets[place]
        rows, size = rows.to(target.device), len(target)
        if self.context is not None:
            self.context.enter(self.times[place][rows])
        output = unit(*(_rows(a, rows, size) for a in args), **{k: _rows(a, rows, size) for k, a in kwargs.items()})
        return distance(output, target[rows], exponent)


def distance(output: Tensor, target: Tensor, exponent: float) -> Tensor:
    """Mean over batch and positions of the sum over channels of |output - target|^exponent."""
    axis = 1 if output.ndim in (2, 4) else -1
    return (output - target).abs().pow(exponent).sum(dim=axis).mean()


def units(model: DiffusionModel, call: Call) -> list[str]:
    """Paths of the units with quantised layers, in the order in which they run."""
    found: list[str] = []
    for path, module in model.denoiser.named_modules():
        inside = any(path.startswith(f"{other}.") for other in found)
        if not inside and ((type(module).__name__ in UNITS and _layers(module)) or isinstance(module, FoldableLayer)):
            found.append(path)
    order: list[str] = []
    hooks = [
        model.denoiser.get_submodule(path).register_forward_pre_hook(lambda *_, path=path: order.append(path))
        for path in found
    ]
    try:
        with torch.no_grad():
            model.predict(call.x, call.t, call.cond)
    finally:
        for hook in hooks:
            hook.remove()
    return list(dict.fromkeys(order))


def _step_parameters(unit: nn.Module) -> list[nn.Parameter]:
    """What the steps of a unit's activations are made from: the learned step itself, or the generator's layers."""
    sources = [module.source for module in unit.modules() if isinstance(module, Quantizer)]
    return [p for source in sources if isinstance(source, Learned | Generated) for p in source.parameters()]


def _layers(unit: nn.Module) -> list[Any]:
    return [module for module in unit.modules() if isinstance(module, FoldableLayer)]


def _some(calls: Iterable[Call], rows: int) -> list[Call]:
    """Calls of `rows` samples in all, spread evenly over the given ones."""
    sizes = [len(call.x) for call in calls]
    if not sizes:
        raise ValueError("there is not a single calibration call")
    stride = max(1, round(sum(sizes) / rows))
    return [call for place, call in enumerate(calls) if place % stride == 0]


def _rows(value: Any, index: Tensor, size: int) -> Any:
    return value[index] if isinstance(value, Tensor) and value.ndim and len(value) == size else value


class _Seen:
    """(args, kwargs, output) of every call of a module while the block runs."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.found: list[tuple[tuple[Any, ...], dict[str, Any], Tensor]] = []

    def __enter__(self) -> list[tuple[tuple[Any, ...], dict[str, Any], Tensor]]:
        self.hook = self.module.register_forward_hook(
            lambda _, args, kwargs, output: self.found.append((args, kwargs, output)), with_kwargs=True
        )
        return self.found

    def __exit__(self, *_: object) -> None:
        self.hook.remove()
