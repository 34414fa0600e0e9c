"""TDQ's optional parts: the learned offset (Asym, tdq.md section 2) and the fit to block outputs (section 4)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import tiny
from parediff.calibration.base import LazyCalls
from parediff.errors import RequestError
from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.quantization.calibrate import input_quantizers
from parediff.quantization.generated import Generated
from parediff.quantization.generator_fit import GeneratorFit
from parediff.quantization.grid import Grid
from parediff.quantization.intervals import GeneratedInterval
from parediff.quantization.layers import fold
from parediff.quantization.quantizer import Quantizer
from parediff.quantization.reconstruction import Replay, stratified
from parediff.quantization.samples import Samples
from parediff.quantization.search import MinMax
from parediff.quantization.time_context import TimeContext
from parediff.training.quantization_aware import QuantizationAware
from test_tdq import CALIBRATION, SEARCHED, _draw, fitted, method

PAPER = {"recipe": "paper"}


def _offsets(model: DiffusionModel) -> dict[str, Quantizer]:
    return {path: q for path, q in input_quantizers(model.denoiser).items() if q.beta is not None}


def test_an_offset_starts_at_the_mean_and_serves_what_is_not_behind_silu() -> None:
    model = tiny.unconditional_model()
    fitted(model, method(**PAPER, offset="learned"))
    offsets = _offsets(model)
    assert offsets
    assert all(quantizer.grid.signed for quantizer in offsets.values())
    path, quantizer = next(iter(offsets.items()))
    seen: list[Tensor] = []
    plain = tiny.unconditional_model()
    layer = plain.denoiser.get_submodule(path.rpartition(".input_quantizer")[0])
    layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for call in CALIBRATION.record(plain, tiny.DDIM):
        plain.predict(call.x, call.t, call.cond)
    values = torch.cat([one.flatten() for one in seen])
    assert float(quantizer.beta) == pytest.approx(float(values.mean()), abs=0.1 * float(values.std()))
    assert any(entry["offset"] == float(quantizer.beta) for entry in _told(model))
    assert _draw(model).isfinite().all()


def _told(model: DiffusionModel) -> Iterator[dict]:
    for layer in method(**PAPER, offset="learned").fired(model)["layers"].values():
        yield from (entry for entry in layer.values() if "offset" in entry)


def test_offsets_learn_slowly_and_without_decay() -> None:
    model = tiny.unconditional_model()
    tdq = method(**PAPER, offset="learned", learning="qat")
    tdq.prepare(model)
    learner = QuantizationAware(model.denoiser, model.pipeline.scheduler, tdq.training_recipe, seed=0)
    slow, generators, _ = learner.parameter_groups()
    betas = {id(quantizer.beta) for quantizer in _offsets(model).values()}
    assert betas
    assert betas <= {id(parameter) for parameter in slow["params"]}
    assert slow["weight_decay"] == 0.0
    inside = {id(p) for m in model.denoiser.modules() if isinstance(m, Generated) for p in m.parameters()}
    assert {id(parameter) for parameter in generators["params"]} == inside


def _held_out(model: DiffusionModel, calls: list[Call]) -> dict[str, float]:
    units = Replay(model, stratified(calls, 128), 1024)
    return {path: data.held_out_error(model.denoiser.get_submodule(path), 2.4, 0.0) for path, data in units}


BLOCKS = {"learning": "reconstruction", "reconstruction.step_iterations": 25, "reconstruction.step_learning_rate": 1e-3}


@pytest.mark.slow
def test_the_second_stage_changes_generators_only_and_brings_blocks_closer() -> None:
    one = tiny.unconditional_model()
    method(activation_bits=3, **SEARCHED).prepare(one)
    other = one.copy()
    calls = list(LazyCalls(CALIBRATION, tiny.unconditional_model(), tiny.DDIM))
    method(activation_bits=3, **SEARCHED).calibrate(one, calls)
    method(activation_bits=3, **SEARCHED, **BLOCKS).calibrate(other, calls)
    first, second = one.denoiser.state_dict(), other.denoiser.state_dict()
    changed = {name for name in first if not torch.equal(first[name], second[name])}
    assert changed
    assert all(".source.hidden." in name or ".source.last." in name for name in changed)
    before, after = _held_out(one, calls), _held_out(other, calls)
    first_unit = next(iter(before))  # nothing quantised stands before it, so both see the same input
    assert after[first_unit] <= before[first_unit]
    assert sum(after.values()) < sum(before.values())


def test_after_the_second_stage_tables_are_still_the_generators() -> None:
    model = tiny.unconditional_model()
    fitted(model, method(**BLOCKS | {"reconstruction.step_iterations": 2, "reconstruction.rows": 16}))
    twin = model.copy()
    for module in twin.denoiser.modules():
        if isinstance(module, Generated):
            module.forget()
    fold(twin.denoiser)
    assert torch.equal(_draw(model), _draw(twin))


@pytest.mark.slow
def test_learned_rounding_stands_on_generated_intervals_by_config_alone() -> None:
    errors = {}
    for rounding in ("nearest", "adaround"):
        model = tiny.unconditional_model()
        settings = {"weight_bits": 2, "activation_bits": 8, "reconstruction.iterations": 20, **SEARCHED}
        chosen = method(rounding=rounding, **settings)
        fitted(model, chosen)
        assert chosen.fired(model)["rounding_learned"] == 0 if rounding == "nearest" else True
        calls = list(LazyCalls(CALIBRATION, tiny.unconditional_model(), tiny.DDIM))
        exact, rounded = ([m.predict(c.x, c.t, c.cond) for c in calls] for m in (tiny.unconditional_model(), model))
        errors[rounding] = float((torch.cat(rounded) - torch.cat(exact)).square().mean())
    assert errors["adaround"] < errors["nearest"]


@pytest.mark.parametrize("interval", ["per_step", pytest.param("generated", marks=pytest.mark.slow)])
def test_intervals_can_follow_the_quantised_models_own_trajectory(interval: str) -> None:
    model = tiny.unconditional_model()
    chosen = method(interval=interval, trajectory="own", activation_bits=3)
    fitted(model, chosen)
    other = tiny.unconditional_model()
    fitted(other, method(interval=interval, activation_bits=3))
    assert _draw(model).isfinite().all()
    assert not torch.equal(_draw(model), _draw(other))
    first, second = (next(iter(input_quantizers(m.denoiser).values())).source.over_time()[0] for m in (model, other))
    if interval == "per_step":  # the first step sees the same noise on either trajectory, the last does not
        assert float(first[-1]) == pytest.approx(float(second[-1]), rel=0.05)


def test_a_static_interval_is_where_a_generator_starts_also_after_it_has_learned() -> None:
    """Along the own trajectory it is fitted a second time."""
    context = TimeContext(10, 32, interpolate=False)
    context.remember(torch.tensor([1.0, 500.0, 999.0]))

    def fresh() -> Generated:
        seeded = torch.Generator().manual_seed(0)
        return Generated(context, Grid(4, "affine"), None, dropout=0.0, generator=seeded)

    learned, new = fresh(), fresh()
    learned.last.weight.data.normal_()
    kind = GeneratedInterval(GeneratorFit("static", 0, 1e-2, relative_error=True, dropout=0.0), 0)
    x = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0))
    for source in (learned, new):
        quantizer = Quantizer(Grid(4, "affine"), source=source)
        kind.fit({"one": quantizer}, {"one": Samples(x, x.amin(1), x.amax(1))}, MinMax())
    assert all(torch.equal(a, b) for a, b in zip(learned.over_time(), new.over_time(), strict=True))
    learned.hold(learned.over_time())
    step, zero_point = learned.over_time()
    assert zero_point is not None
    assert step.unique().numel() == zero_point.unique().numel() == 1


def test_an_own_trajectory_needs_a_source_that_draws_anew() -> None:
    model = tiny.unconditional_model()
    chosen = method(interval="per_step", trajectory="own")
    chosen.prepare(model)
    calls = list(LazyCalls(CALIBRATION, model, tiny.DDIM))
    with pytest.raises(RequestError, match="calibration=list"):
        chosen.calibrate(model, calls)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"recipe": "paper", "offset": "fixed"}, "offset"),
        ({"offset": "learned"}, "offset"),
        ({"reconstruction.step_iterations": -1}, "step_iterations"),
        ({"reconstruction.step_learning_rate": 0.0}, "step_learning_rate"),
        ({"reconstruction.rows": 1}, "rows"),
        ({"search.bias_weight": -1.0}, "bias_weight"),
    ],
)
def test_a_wrong_option_is_named(changes: dict[str, object], key: str) -> None:
    with pytest.raises(RequestError, match=key):
        method(**changes)
