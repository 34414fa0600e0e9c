"""LSQ, tables per time step, and the reports: X7, X12, X15 of quantization.md and the bad input of both methods."""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny
from composing import UNSEARCHED, method_of
from parediff.calibration.base import LazyCalls
from parediff.calibration.uniform import Uniform
from parediff.errors import RequestError
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.pipeline.compress import compress, load_state, restore, save
from parediff.quantization.calibrate import input_quantizers
from parediff.quantization.grid import Grid
from parediff.quantization.quantizer import Quantizer
from parediff.quantization.report import signal_to_noise
from parediff.quantization.samples import Samples
from parediff.quantization.search import SearchSettings
from parediff.quantization.sources import Learned, PerStep
from parediff.quantization.time_context import UnknownStep, time_context_of

CALIBRATION = Uniform(10**9, 4, 4, 5)
TEN = Sampler("ddim", "DDIMScheduler", 10)


def method(name: str, **changes: object) -> Any:
    return method_of(name, {"values": 2048, **UNSEARCHED, "search.candidates": 8} | changes, "sampler.steps=5")


def fitted(model: DiffusionModel, chosen: Any, source: Uniform = CALIBRATION) -> dict[str, Tensor]:
    return compress(model, model.copy(), {"m": chosen}, lambda m: LazyCalls(source, m, tiny.DDIM), lambda *_: None)


@cache
def tabulated() -> tuple[DiffusionModel, Any, dict[str, Tensor]]:
    """A model with tables over the five steps, their method, and the state before finalize; no test changes it."""
    model, chosen = tiny.unconditional_model(), method("per_step", unseen_steps="refuse")
    return model, chosen, fitted(model, chosen)


def test_x7_the_steps_gradient_is_scaled_by_the_features_of_one_sample() -> None:
    """Batch of 2, 3 features each, Q = 7: the hand formula times 1 / sqrt(3 * 7)."""
    quantizer = Quantizer(Grid(4), source=Learned(None, zero_point=False, gradient_levels=7, batched=True))
    quantizer.fill(torch.tensor(0.5))
    quantizer(torch.tensor([[0.6, 100.0, -100.0], [0.1, 0.2, 0.3]])).sum().backward()
    by_hand = (1 - 1.2) + 7 - 7 + (0 - 0.2) + (0 - 0.4) + (1 - 0.6)
    assert float(quantizer.source.raw.grad) == pytest.approx(by_hand / 21**0.5, abs=1e-6)


def test_lsqs_first_step_is_twice_the_mean_magnitude_over_the_root_of_q() -> None:
    values = torch.tensor([[1.0, -2.0, 3.0, -2.0]])
    step, _ = SearchSettings().named("lsq").fit(Samples(values, values.amin(1), values.amax(1)), Grid(4))
    assert float(step) == pytest.approx(2 * 2.0 / 7**0.5)


@pytest.mark.parametrize("search", ["minmax", "mse", "lsq"])
def test_lsq_before_training_has_one_positive_step_per_activation(search: str) -> None:
    model = tiny.unconditional_model()
    fitted(model, method("lsq", learning="none", activation_search=search))
    steps = [quantizer.source.over_time()[0] for quantizer in input_quantizers(model.denoiser).values()]
    assert all(step.numel() == 1 and float(step) > 0 for step in steps)


@pytest.mark.parametrize("recipe", ["default", "paper"])
def test_static_and_timed_methods_quantise_the_same_layers_on_the_same_grids(recipe: str) -> None:
    found = []
    for name in ("lsq", "tdq", "per_step"):
        model = tiny.unconditional_model()
        method(name, recipe=recipe).prepare(model)
        found.append({path: quantizer.grid for path, quantizer in input_quantizers(model.denoiser).items()})
    assert found[0] == found[1] == found[2]


def test_each_entry_of_a_table_is_the_best_step_at_its_time() -> None:
    model, _, _ = tabulated()
    known = time_context_of(model.denoiser).known
    assert known.tolist() == sorted(float(t) for t in _executed(tiny.DDIM, model))
    tables = [quantizer.source.over_time()[0] for quantizer in input_quantizers(model.denoiser).values()]
    assert all(len(table) == 5 and bool((table > 0).all()) for table in tables)
    assert any(float(table.max() / table.min()) > 1.05 for table in tables)


def _executed(sampler: Sampler, model: DiffusionModel) -> Tensor:
    scheduler = sampler.scheduler_for(model.pipeline)
    scheduler.set_timesteps(sampler.steps)
    return scheduler.timesteps


def test_a_table_is_looked_up_by_time_and_not_by_counting_calls() -> None:
    model, _, _ = tabulated()
    calls = list(CALIBRATION.record(model, tiny.DDIM))
    forwards = [model.predict(call.x, call.t, call.cond) for call in calls]
    backwards = [model.predict(call.x, call.t, call.cond) for call in reversed(calls)]
    assert all(torch.equal(a, b) for a, b in zip(forwards, reversed(backwards), strict=True))


def test_x15_a_table_for_another_sampler_fails_loudly_or_interpolates() -> None:
    model, refusing, state = tabulated()
    other = tiny.unconditional_model()
    with pytest.raises(RequestError, match="10 ddim steps were not calibrated"):
        restore(other, {"m": dataclasses.replace(refusing, sampler=TEN)}, state)
    with pytest.raises(UnknownStep):
        model.generate((1,), None, Sampler("ddim", "DDIMScheduler", 7))
    between = tiny.unconditional_model()
    restore(between, {"m": method("per_step", unseen_steps="interpolate")}, state)
    assert torch.isfinite(between.generate((1,), None, TEN)).all()


def test_calibration_that_leaves_out_steps_of_the_sampler_is_refused() -> None:
    with pytest.raises(RequestError, match=r"calibration.steps=3.*2 of the 5 ddim steps"):
        fitted(
            tiny.unconditional_model(),
            method("per_step", unseen_steps="refuse", **UNSEARCHED),
            dataclasses.replace(CALIBRATION, steps=3),
        )


def test_x12_saved_tables_draw_the_same_images(tmp_path: Any) -> None:
    model, chosen, state = tabulated()
    again = tiny.unconditional_model()
    restore(again, {"m": chosen}, load_state(save(state, tmp_path)))
    assert torch.equal(again.generate((1, 2), None, tiny.DDIM), model.generate((1, 2), None, tiny.DDIM))


@pytest.mark.parametrize("name", ["lsq", pytest.param("tdq", marks=pytest.mark.slow)])
def test_x12_a_saved_model_draws_the_same_images(name: str, tmp_path: Any) -> None:
    model, again = tiny.unconditional_model(), tiny.unconditional_model()
    chosen = method(name, learning="none", **UNSEARCHED)
    state = fitted(model, chosen)
    restore(again, {"m": chosen}, load_state(save(state, tmp_path)))
    assert torch.equal(again.generate((1, 2), None, tiny.DDIM), model.generate((1, 2), None, tiny.DDIM))


def test_fired_tells_bits_grid_and_the_interval_over_time_of_every_layer() -> None:
    model = tiny.unconditional_model()
    chosen = method("per_step", recipe="paper", attention="same", **UNSEARCHED)
    fitted(model, chosen)
    proof = chosen.fired(model)
    json.dumps(proof, allow_nan=False)
    layer = proof["layers"]["mid_block.resnets.0.conv1"]
    assert layer["weight_quantizer"]["bits"] == 8
    told = {"grid": "shifted", "bits": 4, "source": "PerStep", "times": 5, "per": "tensor"}
    assert layer["input_quantizer"] | told == layer["input_quantizer"]
    assert layer["input_quantizer"]["step"][0] <= layer["input_quantizer"]["step"][1]
    assert any(path.endswith("products.pv") for path in proof["layers"])
    assert {"conv_in", "conv_out", "time_embedding.linear_1"} <= set(proof["unquantised"])
    assert not any(path in proof["unquantised"] for path in proof["layers"])
    assert "intervals per_step" in proof["setting"]


def test_signal_to_noise_finds_the_layer_that_makes_the_error() -> None:
    """One layer at 2 bits among layers at 8 has by far the lowest ratio of its own."""
    model, teacher = tiny.unconditional_model(), tiny.unconditional_model()
    eight = {"weight_bits": 8, "activation_bits": 8, **UNSEARCHED}
    fitted(model, method("lsq", learning="none", **eight))
    bad = model.denoiser.get_submodule("mid_block.resnets.0.conv1")
    coarse = Quantizer(Grid(2, "symmetric"))
    coarse.fill(torch.tensor(1.0))
    bad.input_quantizer = coarse
    found = signal_to_noise(model, teacher, CALIBRATION.record(teacher, tiny.DDIM))
    own = {path: entry["own"] for path, entry in found.items() if "own" in entry}
    assert min(own, key=lambda path: own[path]) == "mid_block.resnets.0.conv1"
    assert own["mid_block.resnets.0.conv1"] < sorted(own.values())[1] - 10
    assert found["output"]["arriving"] < 40


def test_a_table_is_not_a_quantiser_of_its_own() -> None:
    model = tiny.unconditional_model()
    method("per_step").prepare(model)
    context = time_context_of(model.denoiser)
    assert all(
        quantizer.source.context is context
        for quantizer in input_quantizers(model.denoiser).values()
        if isinstance(quantizer.source, PerStep)
    )


@pytest.mark.parametrize(
    ("name", "changes", "key"),
    [
        ("lsq", {"weight_bits": 33}, "weight_bits"),
        ("lsq", {"activation_search": "best"}, "activation_search"),
        ("lsq", {"values": 0}, "values"),
        ("per_step", {"activation_bits": 1}, "activation_bits"),
        ("per_step", {"unseen_steps": "guess"}, "unseen_steps"),
        ("per_step", {"weight_grid": "narrow", "weight_bits": 2}, "weight_bits"),
        ("per_step", {"learning": "reconstruction"}, "interval"),
        ("lsq", {"rounding": "adaround"}, "rounding"),
        ("lsq", {"trajectory": "own"}, "trajectory"),
        ("lsq", {"offset": "learned"}, "offset"),
    ],
)
def test_a_wrong_request_names_its_key(name: str, changes: dict[str, object], key: str) -> None:
    with pytest.raises(RequestError, match=key):
        method(name, **changes)
