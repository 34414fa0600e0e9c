"""One block after the other made to repeat the full-precision block's output (BRECQ, arXiv 2102.05426; Q-Diffusion)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from parediff.errors import RequestError
from parediff.models.diffusion.door import Call, rows_of
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.quantization.generated import Generated
from parediff.quantization.layers import FoldableLayer
from parediff.quantization.quantizer import Quantizer, bypassed
from parediff.quantization.rounding import RoundedQuantizer, softly
from parediff.quantization.sources import Learned
from parediff.quantization.time_context import TimeContext, find_time_context
from parediff.validation import Count, NonNegative, Positive, Several, Share, Whole, check_types

UNITS = (
    *("ResnetBlock2D", "BasicTransformerBlock", "Attention"),
    *("BasicBlock", "Bottleneck", "InvertedResidual"),
)
"""diffusers' blocks and classifiers' residual ones, reconstructed as a whole; elsewhere single layers are."""


@dataclass(frozen=True)
class Reconstruction:
    """Rounding first (loss exponent 2), then the activations' intervals (exponent 2.4), both by Adam, unit by unit.

    `rows` samples of the calls are used, as many of each time step; a quarter is held out, and a unit whose held-out
    error does not fall is rolled back. A unit's inputs are what the quantised units before it gave out, which is kept,
    beside the full-precision targets, within `memory_mb`. `bias_weight` adds so many times the squared mean error of
    each channel at one time step, which comes back at the next.
    """

    iterations: Whole
    step_iterations: Whole
    batch: Annotated[Count, "samples of an iteration"]
    rows: Several
    memory_mb: Count
    learning_rate: Positive
    step_learning_rate: Annotated[Positive, "of intervals"]
    regularisation: Annotated[NonNegative, "weight of the pull towards rounding"]
    bias_weight: NonNegative
    warmup: Annotated[Share, "of the iterations, without that pull"] = 0.2
    weight_step_rate: Annotated[Positive, "learning rate of weights' steps, falling to 0; of rounding=joint"] = 1e-4

    def __post_init__(self) -> None:
        check_types(self)

    def run(self, model: DiffusionModel, calls: Iterable[Call], generator: torch.Generator) -> dict[str, Outcome]:
        """Reconstruct every unit, in the order in which they run; what became of each."""
        replay = Replay(model, stratified(calls, self.rows), self.memory_mb)
        outcomes = {}
        for path, data in replay:
            unit = model.denoiser.get_submodule(path)
            rounding = self._learn_rounding(unit, data, generator)
            intervals = self._learn_intervals(unit, data, generator)
            outcomes[path] = Outcome(*rounding, *intervals)
        return outcomes

    def _learn_rounding(self, unit: nn.Module, data: Data, generator: torch.Generator) -> tuple[float, float]:
        weights = [(q, part) for layer in _layers(unit) for q, part in layer.weight_parts()]
        chosen = [(q, part) for q, part in weights if isinstance(q, RoundedQuantizer) and q.on]
        rounders = [quantizer for quantizer, _ in chosen]
        before = data.held_out_error(unit, 2.0, self.bias_weight)
        if not chosen or not self.iterations:
            return before, before
        steps = [quantizer.source.raw for quantizer in rounders if isinstance(quantizer.source, Learned)]
        kept = [step.detach().clone() for step in steps]
        for quantizer, part in chosen:
            quantizer.start(part)
        with softly(rounders) as parameters, learning(steps):
            groups: list[dict[str, Any]] = [{"params": parameters}, {"params": steps, "lr": self.weight_step_rate}]
            optimizer = torch.optim.Adam(groups[: 1 + bool(steps)], lr=self.learning_rate)
            falling = lambda iteration: 0.5 * (1 + math.cos(math.pi * iteration / self.iterations))  # noqa: E731
            rates = [lambda _: 1.0, falling][: 1 + bool(steps)]
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rates)

            def loss(iteration: int) -> Tensor:
                penalty = self._penalty(rounders, iteration / self.iterations)
                return data.error(unit, 2.0, self.batch, self.bias_weight, generator) + penalty

            _descend(optimizer, loss, self.iterations, schedule.step)
        after = data.held_out_error(unit, 2.0, self.bias_weight)
        if not after < before:
            for quantizer in rounders:
                quantizer.forget()
            for step, value in zip(steps, kept, strict=True):
                step.data.copy_(value)
        return before, min(before, after)

    def _penalty(self, rounders: Sequence[RoundedQuantizer], progress: float) -> Tensor | float:
        """0.01 sum(1 - |2h - 1|^beta), beta from 20 to 2, off at first."""
        if progress < self.warmup:
            return 0.0
        beta = 20 - 18 * (progress - self.warmup) / (1 - self.warmup)
        terms = [(1 - (2 * quantizer.share - 1).abs().pow(beta)).sum() for quantizer in rounders]
        return self.regularisation * torch.stack(terms).sum()

    def _learn_intervals(self, unit: nn.Module, data: Data, generator: torch.Generator) -> tuple[float, float]:
        parameters = interval_parameters(unit)
        before = data.held_out_error(unit, 2.4, self.bias_weight)
        if not parameters or not self.step_iterations:
            return before, before
        kept = [parameter.detach().clone() for parameter in parameters]
        optimizer = torch.optim.Adam(parameters, lr=self.step_learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.step_iterations)
        error = lambda _: data.error(unit, 2.4, self.batch, self.bias_weight, generator)  # noqa: E731
        with learning(parameters):
            _descend(optimizer, error, self.step_iterations, schedule.step)
        after = data.held_out_error(unit, 2.4, self.bias_weight)
        if not after < before:
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.data.copy_(value)
        return before, min(before, after)


@contextmanager
def learning(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """They take gradients while the block runs."""
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)


def _descend(
    optimizer: Any, loss_of: Callable[[int], Tensor], iterations: int, then: Callable[[], None] = lambda: None
) -> None:
    with torch.enable_grad():
        for iteration in range(iterations):
            loss = loss_of(iteration)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            then()


@dataclass(frozen=True)
class Outcome:
    """Held-out errors of one unit: of its rounding (exponent 2) and of its intervals (2.4), before and after."""

    rounding_before: float
    rounding_after: float
    steps_before: float
    steps_after: float


@dataclass(frozen=True)
class Data:
    """A unit's arguments as the quantised network gives them, its full-precision output, and the rows' time steps [n].

    Every fourth row is held out; rows are in the order of time, so that all times are on both sides.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    target: Tensor
    t: Tensor
    context: TimeContext | None

    @property
    def held(self) -> Tensor:
        count = len(self.target)
        if count < 2:
            raise ValueError("one calibration sample cannot be both learned from and held out: record more")
        return torch.arange(count) % 4 == min(3, count - 1)

    def error(self, unit: nn.Module, exponent: float, batch: int, bias: float, generator: torch.Generator) -> Tensor:
        """Of random rows; of one time step where the bias counts."""
        rows = (~self.held).nonzero().flatten()
        if bias:
            drawn = self.t[rows[int(torch.randint(len(rows), (), generator=generator))]]
            rows = rows[self.t[rows].cpu() == drawn.cpu()]
        rows = rows[torch.randperm(len(rows), generator=generator)[:batch]]
        return distance(self.output(unit, rows), self.target[rows.to(self.target.device)], exponent, bias)

    @torch.no_grad()
    def held_out_error(self, unit: nn.Module, exponent: float, bias: float) -> float:
        """The mean over the held-out rows."""
        rows = self.held.nonzero().flatten()
        return float(distance(self.output(unit, rows), self.target[rows.to(self.target.device)], exponent, bias))

    def output(self, unit: nn.Module, rows: Tensor) -> Tensor:
        """What the unit gives for some rows."""
        rows, size = rows.to(self.target.device), len(self.target)
        if self.context is not None:
            self.context.enter(self.t[rows])
        given = {key: rows_of(value, rows, size) for key, value in self.kwargs.items()}
        return unit(*(rows_of(value, rows, size) for value in self.args), **given)


def distance(output: Tensor, target: Tensor, exponent: float, bias: float = 0.0) -> Tensor:
    """Mean over batch and positions of the sum over channels of |output - target|^exponent.

    `bias` adds so many times the sum over channels of |mean over batch and positions|^exponent.
    """
    axis = 1 if output.ndim in (2, 4) else -1
    error = (output - target).movedim(axis, 0).flatten(1)
    plain = error.abs().pow(exponent).sum(dim=0).mean()
    return plain + bias * error.mean(dim=1).abs().pow(exponent).sum() if bias else plain


class Replay:
    """Walks through a network's units: each with the outputs of the quantised units before it as inputs.

    Full-precision outputs of all units come from one pass, quantised ones from the units themselves, once they are
    settled; then a pass up to the next unit only hands on what is kept.
    """

    CHUNK = 64

    def __init__(self, model: DiffusionModel, call: Call, memory_mb: int) -> None:
        self.model, self.call, self.memory_mb = model, call, memory_mb
        self.paths = units(model, call.rows(slice(0, 1)))
        self.kept: dict[str, Tensor] = {}

    def __iter__(self) -> Iterator[tuple[str, Data]]:
        self._check_memory()
        targets = self._targets()
        for path in self.paths:
            data = self._data(path, targets.pop(path))
            yield path, data
            unit = self.model.denoiser.get_submodule(path)
            rows = torch.arange(len(self.call.x)).split(self.CHUNK)
            with torch.no_grad():
                self.kept[path] = torch.cat([data.output(unit, part) for part in rows])

    def _chunks(self) -> Iterator[tuple[slice, Call]]:
        for start in range(0, len(self.call.x), self.CHUNK):
            rows = slice(start, start + self.CHUNK)
            yield rows, self.call.rows(rows)

    def _check_memory(self) -> None:
        row = sum(output.numel() * output.element_size() for output in self._seen(self.call.rows(slice(0, 1))))
        fit = self.memory_mb * 2**20 // max(1, row)
        if fit < len(self.call.x):
            raise RequestError("rows", len(self.call.x), f"{fit} fit into memory_mb={self.memory_mb} with this network")

    @torch.no_grad()
    def _seen(self, call: Call) -> list[Tensor]:
        """Every unit's full-precision output for a call."""
        seen: dict[str, Tensor] = {}
        with ExitStack() as stack:
            for path in self.paths:
                keep = lambda _, __, output, path=path: seen.__setitem__(path, output)  # noqa: E731
                stack.callback(self.model.denoiser.get_submodule(path).register_forward_hook(keep).remove)
            with bypassed(self.model.denoiser):
                self.model.predict(call.x, call.t, call.cond)
        return [seen[path] for path in self.paths]

    def _targets(self) -> dict[str, Tensor]:
        columns = zip(*(self._seen(call) for _, call in self._chunks()), strict=True)
        return {path: torch.cat(column) for path, column in zip(self.paths, columns, strict=True)}

    @torch.no_grad()
    def _data(self, path: str, target: Tensor) -> Data:
        found = []
        for rows, call in self._chunks():
            with self._replayed(rows), _arguments(self.model.denoiser.get_submodule(path)) as seen:
                try:
                    self.model.predict(call.x, call.t, call.cond)
                except _Reached:
                    found.append((seen[0], len(call.x)))
        args = [_joined([(given[0][i], n) for given, n in found]) for i in range(len(found[0][0][0]))]
        kwargs = {key: _joined([(given[1][key], n) for given, n in found]) for key in found[0][0][1]}
        return Data(tuple(args), kwargs, target, self.call.t, find_time_context(self.model.denoiser))

    @contextmanager
    def _replayed(self, rows: slice) -> Iterator[None]:
        modules = {path: self.model.denoiser.get_submodule(path) for path in self.kept}
        before = {path: module.__dict__.get("forward") for path, module in modules.items()}
        for path, module in modules.items():
            module.__dict__["forward"] = lambda *_, path=path, **__: self.kept[path][rows]
        try:
            yield
        finally:
            for path, module in modules.items():
                del module.__dict__["forward"]
                if before[path] is not None:  # an attention whose products were made visible has one of its own
                    module.__dict__["forward"] = before[path]


class _Reached(Exception):
    """The pass has come to the unit whose arguments are wanted."""


@contextmanager
def _arguments(module: nn.Module) -> Iterator[list[tuple[tuple[Any, ...], dict[str, Any]]]]:
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append((args, kwargs))
        raise _Reached

    hook = module.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


def units(model: DiffusionModel, call: Call) -> list[str]:
    """Paths of the units with quantised layers, in the order in which they run."""
    found: list[str] = []
    for path, module in model.denoiser.named_modules():
        inside = any(path.startswith(f"{other}.") for other in found)
        if not inside and ((type(module).__name__ in UNITS and _layers(module)) or isinstance(module, FoldableLayer)):
            found.append(path)
    order: list[str] = []
    with ExitStack() as stack, torch.no_grad():
        for path in found:
            hook = lambda *_, path=path: order.append(path)  # noqa: E731
            stack.callback(model.denoiser.get_submodule(path).register_forward_pre_hook(hook).remove)
        model.predict(call.x, call.t, call.cond)
    return list(dict.fromkeys(order))


def interval_parameters(unit: nn.Module) -> list[nn.Parameter]:
    """What the intervals of a unit's activations are made from: the learned step itself, or the generator's layers."""
    quantizers = [module for module in unit.modules() if isinstance(module, Quantizer)]
    sources = [one.source for one in quantizers if not isinstance(one, RoundedQuantizer)]  # weights' are the rounding's
    return [p for source in sources if isinstance(source, Learned | Generated) for p in source.parameters()]


def _layers(unit: nn.Module) -> list[Any]:
    return [module for module in unit.modules() if isinstance(module, FoldableLayer)]


def stratified(calls: Iterable[Call], rows: int) -> Call:
    """`rows` samples of the calls in one, as many of each time step as of any other, ascending in time."""
    where: dict[float, list[tuple[int, int]]] = {}
    for place, call in enumerate(calls):
        for row, t in enumerate(call.t.tolist()):
            where.setdefault(float(t), []).append((place, row))
    if not where:
        raise RequestError("calibration", "empty", "at least one recorded call is accepted")
    times = sorted(where)
    if len(times) > rows:
        times = [times[round(i * (len(times) - 1) / max(1, rows - 1))] for i in range(rows)]
    chosen: list[tuple[int, int]] = []
    for index, t in enumerate(times):
        count = rows * (index + 1) // len(times) - rows * index // len(times)
        met = where[t]
        count = min(count, len(met))
        chosen += [met[i * len(met) // count] for i in range(count)]
    wanted = {place for place, _ in chosen}
    held = {place: call for place, call in enumerate(calls) if place in wanted}
    parts = [held[place].rows(slice(row, row + 1)) for place, row in chosen]
    cond = {key: _joined([(part.cond[key], 1) for part in parts]) for key in parts[0].cond}
    return Call(torch.cat([part.x for part in parts]), torch.cat([part.t for part in parts]), cond, 0)


def _joined(parts: Sequence[tuple[Any, int]]) -> Any:
    """Values with their numbers of samples: those with a row for each are put together, others stay."""
    first, count = parts[0]
    if isinstance(first, Mapping):
        return {key: _joined([(value[key], n) for value, n in parts]) for key in first}
    if isinstance(first, Tensor) and first.ndim and len(first) == count:
        return torch.cat([value for value, _ in parts])
    return first
