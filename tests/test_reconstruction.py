"""Learned rounding and block reconstruction: X14 of quantization.md, section 2 of quant_baselines.md."""

from __future__ import annotations

import dataclasses
from functools import cache

import pytest
import torch

import tiny
from composing import UNSEARCHED, method_of
from parediff.calibration.base import LazyCalls
from parediff.calibration.uniform import Uniform
from parediff.errors import RequestError
from parediff.methods.quantize import Quantize
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.pipeline.compress import compress, restore
from parediff.quantization.grid import Grid
from parediff.quantization.quantizer import bypassed
from parediff.quantization.reconstruction import Reconstruction, Replay, distance, stratified, units
from parediff.quantization.rounding import RoundedQuantizer, inverse_rectified_sigmoid, rectified_sigmoid

CALIBRATION = Uniform(10**9, 8, 8, 5)
ENOUGH = Uniform(10**9, 32, 32, 5)
"""As many rows as the method asks for: rounding learned from thirty of them fits those thirty."""


def method(**changes: object) -> Quantize:
    small = {"values": 2048, "search.candidates": 8, "time_layers": "full"}
    return method_of("q_diffusion", small | changes)


def calls_of(model: DiffusionModel) -> LazyCalls:
    return LazyCalls(CALIBRATION, model, tiny.DDIM)


def enough_of(model: DiffusionModel) -> LazyCalls:
    return LazyCalls(ENOUGH, model, tiny.DDIM)


def rounder(weight: torch.Tensor, bits: int = 4) -> RoundedQuantizer:
    quantizer = RoundedQuantizer(Grid(bits), weight.shape, axis=0, channels=len(weight))
    quantizer.fill(weight.abs().amax(1) / 7)
    quantizer.start(weight)
    return quantizer


def test_x14_v_starts_at_the_fractional_part() -> None:
    shares = torch.linspace(0, 0.999, 500)
    assert torch.allclose(rectified_sigmoid(inverse_rectified_sigmoid(shares)), shares, atol=1e-6)


def test_x14_soft_rounding_starts_at_the_weight_and_hard_rounding_at_the_nearest() -> None:
    weight = torch.randn(6, 40)
    quantizer = rounder(weight)
    quantizer.soft = True
    assert torch.allclose(quantizer(weight), weight, atol=1e-6)
    quantizer.soft = False
    step = quantizer.source.step[:, None]
    half_up = ((weight / step + 0.5).floor() * step).clamp(-7 * step, 7 * step)
    assert torch.allclose(quantizer(weight), half_up, atol=1e-6)


def test_hard_rounding_moves_a_weight_by_less_than_a_step_whatever_was_learned() -> None:
    weight = torch.randn(6, 40)
    quantizer = rounder(weight)
    quantizer.v.copy_(torch.randn_like(weight))
    out, step = quantizer(weight), quantizer.source.step[:, None]
    assert bool(((out - weight).abs() <= step * (1 + 1e-5)).all())
    codes = out / step
    assert torch.allclose(codes, codes.round(), atol=1e-4)
    assert quantizer.forget() is None
    assert not torch.equal(quantizer(weight), out)


def test_units_are_blocks_and_single_layers_in_the_order_they_run() -> None:
    model = tiny.unconditional_model()
    method().prepare(model)
    order = units(model, next(iter(calls_of(model))))
    assert order[0] == "conv_in"
    assert order[-1] == "conv_out"
    assert order.index("down_blocks.0.resnets.0") < order.index("mid_block.resnets.0")
    assert order.index("mid_block.resnets.0") < order.index("up_blocks.0.resnets.0")
    assert "mid_block.attentions.0" in order
    assert not any(path.endswith("conv1") for path in order)


@pytest.fixture(scope="module")
def reconstructed() -> tuple[DiffusionModel, dict[str, torch.Tensor], dict[str, object]]:
    """A tiny model at W3A8, and what became of each unit; no test changes it."""
    model = tiny.unconditional_model()
    recipe = method(**{"weight_bits": 3, "reconstruction.iterations": 20, "reconstruction.step_iterations": 6})
    outcomes: dict[str, object] = {}
    run = Reconstruction.run

    def spied(self: Reconstruction, *args: object) -> object:
        outcomes.update(run(self, *args))  # type: ignore[arg-type]
        return outcomes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reconstruction, "run", spied)
        state = compress(model, model.copy(), {"q": recipe}, enough_of, lambda *_: None)
    return model, state, outcomes


def test_no_unit_gets_worse_on_held_out_data_and_most_get_better(reconstructed: tuple[object, object, dict]) -> None:
    outcomes = reconstructed[2].values()
    assert all(o.rounding_after <= o.rounding_before for o in outcomes)
    assert all(o.steps_after <= o.steps_before for o in outcomes)
    assert sum(o.rounding_after < o.rounding_before for o in outcomes) > len(outcomes) / 2


def test_reconstruction_brings_the_output_nearer_to_full_precision(reconstructed: tuple[DiffusionModel, ...]) -> None:
    plain, teacher = tiny.unconditional_model(), tiny.unconditional_model()
    nearest = method(**{"weight_bits": 3, "reconstruction.iterations": 0, "reconstruction.step_iterations": 0})
    compress(plain, teacher, {"q": nearest}, enough_of, lambda *_: None)
    errors = dict.fromkeys(("plain", "learned"), 0.0)
    for call in Uniform(2 * 10**9, 8, 8, 5).record(teacher, tiny.DDIM):
        exact = teacher.predict(call.x, call.t, call.cond)
        for name, model in (("plain", plain), ("learned", reconstructed[0])):
            errors[name] += float((model.predict(call.x, call.t, call.cond) - exact).square().mean())
    assert errors["learned"] < errors["plain"]


def test_learned_rounding_survives_saving(reconstructed: tuple[DiffusionModel, dict[str, torch.Tensor], dict]) -> None:
    model, state, _ = reconstructed
    again = tiny.unconditional_model()
    restore(again, {"q": method(weight_bits=3)}, state)
    assert torch.equal(again.generate((1, 2), None, tiny.DDIM), model.generate((1, 2), None, tiny.DDIM))


def test_a_unit_whose_held_out_error_rises_is_rolled_back() -> None:
    model = tiny.unconditional_model()
    recipe = method(weight_bits=4, **UNSEARCHED)
    spoiling = dataclasses.replace(recipe.reconstruction, iterations=3, step_iterations=3, learning_rate=1e3)
    spoiling = dataclasses.replace(spoiling, step_learning_rate=1e3)
    spoilt = dataclasses.replace(recipe, reconstruction=spoiling)
    state = compress(model, model.copy(), {"q": spoilt}, calls_of, _no_fit)
    learned = [name for name in state if name.endswith(".learned")]
    assert learned
    rolled_back = [name for name in learned if not bool(state[name])]
    assert len(rolled_back) > len(learned) / 2
    call = next(iter(CALIBRATION.record(model, tiny.DDIM)))
    assert torch.isfinite(model.predict(call.x, call.t, call.cond)).all()


def _no_fit(*_: object) -> None:
    raise AssertionError("nothing is trained through Lightning here")


@cache
def calibrated() -> DiffusionModel:
    """A tiny model at W3A8, rounded to the nearest; who runs it takes a copy."""
    model = tiny.unconditional_model()
    recipe = method(weight_bits=3, rounding="nearest", learning="none", **UNSEARCHED)
    recipe.prepare(model)
    recipe.calibrate(model, calls_of(model))
    return model


def test_a_units_data_are_quantised_inputs_and_full_precision_outputs_and_come_in_one_walk() -> None:
    model = calibrated().copy()
    call, path = stratified(calls_of(model), 10), "mid_block.resnets.0"
    block = model.denoiser.get_submodule(path)
    before = [module.__dict__.get("forward") for module in model.denoiser.modules()]
    data = dict(Replay(model, call, 1024))[path]
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    hook = block.register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
    with torch.no_grad():
        model.predict(call.x, call.t, call.cond)
        with bypassed(model.denoiser):
            model.predict(call.x, call.t, call.cond)
    hook.remove()
    assert torch.allclose(data.args[0], seen[0][0], atol=1e-5)
    assert torch.allclose(data.target, seen[1][1], atol=1e-5)
    assert [module.__dict__.get("forward") for module in model.denoiser.modules()] == before


def test_no_unit_runs_again_when_the_ones_behind_it_are_reconstructed() -> None:
    """Passes for the units, their memory and the targets, and its own run; then the kept output stands for it."""
    model = calibrated().copy()
    call, runs = stratified(calls_of(model), 10), []
    model.denoiser.get_submodule("conv_in.input_quantizer").register_forward_hook(lambda *_: runs.append(1))
    walked = [path for path, _ in Replay(model, call, 1024)]
    assert len(walked) > 10
    assert len(runs) == 4


def test_rows_are_drawn_evenly_over_time_whatever_the_order_of_the_calls() -> None:
    model = tiny.unconditional_model()
    call = stratified(calls_of(model), 10)
    times, counts = call.t.unique(return_counts=True)
    assert len(times) == 5
    assert counts.tolist() == [2] * 5
    assert bool((call.t.diff() >= 0).all())
    fewer = stratified(calls_of(model), 3)
    assert fewer.t.tolist() == [times[0], times[2], times[4]]


def test_more_rows_than_the_stated_memory_holds_are_refused_with_how_many_it_does() -> None:
    model = calibrated().copy()
    with pytest.raises(RequestError, match=r"rows=10: 0 fit into memory_mb=0"):
        list(Replay(model, stratified(calls_of(model), 10), 0))


def test_a_weight_on_the_bias_counts_what_does_not_average_out() -> None:
    target = torch.zeros(4, 2, 3, 3)
    output = torch.stack([torch.full((4, 3, 3), 0.5), torch.full((4, 3, 3), 0.5)], 1)
    output[::2, 1] = -0.5
    assert float(distance(output, target, 2.0)) == pytest.approx(0.5)
    assert float(distance(output, target, 2.0, 4.0)) == pytest.approx(0.5 + 4 * 0.25)
