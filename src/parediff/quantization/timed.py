"""Preparing, calibrating and tabulating quantisers whose interval depends on the time step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from torch import Tensor

from parediff.errors import RequestError
from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.quantization.generated import Generated
from parediff.quantization.grid import Grid
from parediff.quantization.intervals import Layout, activation_quantizers, install
from parediff.quantization.quantizer import Quantizer
from parediff.quantization.search import Search
from parediff.quantization.sources import StepSource
from parediff.quantization.tables import PerStepTable
from parediff.quantization.time_context import TimeContext, install_time_context, time_context_of
from parediff.quantization.timed_samples import TimedSamples, collect, steps_of

MakeSource = Callable[[TimeContext, Grid, int], StepSource]


def prepare_timed(model: DiffusionModel, layout: Layout, make: MakeSource, *, interpolate: bool) -> None:
    """Give the denoiser a time context and quantisers whose steps come from `make(context, grid, n)`."""
    total = int(model.pipeline.scheduler.config.get("num_train_timesteps", 1000))
    context = install_time_context(model.denoiser, total, interpolate=interpolate)
    install(model, layout, lambda grid, place: make(context, grid, place))
    context.to(model.device)


def observe(
    model: DiffusionModel, calls: Iterable[Call], *, values: int, seed: int
) -> tuple[dict[str, Quantizer], dict[str, TimedSamples]]:
    """Remember the calls' time steps, and what reaches each activation quantiser at them."""
    context = time_context_of(model.denoiser)
    context.remember(steps_of(calls))
    quantizers = activation_quantizers(model.denoiser)
    width = max(1, values // (8 * len(context.known)))
    return quantizers, collect(model, calls, quantizers, context, values=values, width=width, seed=seed)


def executed_steps(model: DiffusionModel, sampler: Sampler) -> Tensor:
    """The time steps this sampler gives the network, ascending, float64."""
    return model.times(sampler)


def missing_steps(context: TimeContext, wanted: Tensor) -> list[float]:
    """The wanted time steps that no table holds."""
    known = set(context.known.tolist())
    return [float(t) for t in wanted.to(context.steps.dtype) if float(t) not in known]


def check_coverage(model: DiffusionModel, sampler: Sampler | None, *, interpolate: bool) -> None:
    """Raise where the sampler executes time steps that were not calibrated."""
    context = time_context_of(model.denoiser)
    missing = [] if sampler is None or interpolate else missing_steps(context, executed_steps(model, sampler))
    if sampler is not None and missing:
        raise RequestError(
            "calibration.steps",
            len(context.known),
            f"{len(missing)} of the {sampler.steps} {sampler.name} steps were not calibrated (first t={missing[0]:g}); "
            f"calibration.steps={sampler.steps}, or unseen_steps=interpolate, is accepted",
        )


def tabulate(model: DiffusionModel, steps: Tensor | None) -> None:
    """Evaluate every generator at these time steps, or at the calibrated ones: again and again, for any sampler."""
    context = time_context_of(model.denoiser)
    if steps is not None:
        context.remember(steps)
    for module in model.denoiser.modules():
        if isinstance(module, Generated):
            module.tabulate()


def fill_tables(quantizers: Sequence[Quantizer], samples: Sequence[TimedSamples], search: Search) -> None:
    """The best step (and zero point) of each quantiser at each time step."""
    for quantizer, seen in zip(quantizers, samples, strict=True):
        source = quantizer.source
        if not isinstance(source, PerStepTable):
            raise TypeError(f"a PerStepTable is filled here, not {type(source).__name__}")
        if quantizer.grid.identity:
            continue
        for place, t in enumerate(seen.t.unique()):
            step, zero_point = search.fit(seen.at(t), quantizer.grid)
            if place == 0:
                quantizer.fill(step[0], None if zero_point is None else zero_point[0])
            source.fill_entry(place, step[0], None if zero_point is None else zero_point[0])
