"""Post-training quantisation of whole models: what it promises from prepare to the restored file."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMPipeline
from torch import Tensor

import tiny
from composing import UNSEARCHED, method_of
from parediff.errors import RequestError
from parediff.methods.quantize import Quantize
from parediff.models.diffusion.door import Call
from parediff.models.diffusion.load import PretrainedPipeline
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.pipeline.compress import compress, load_state, restore, save
from parediff.quantization.layers import QuantizedLayer
from parediff.quantization.quantizer import Quantizer


def ptq(**changes: Any) -> Quantize:
    """The shipped settings, changed; fewer samples and candidates, for speed."""
    return method_of("ptq", {"values": 2048, **UNSEARCHED, "search.candidates": 8, "sampler": None} | changes)


def no_training(*_: Any) -> None:
    raise AssertionError("post-training quantisation does not train")


def recorded(model: DiffusionModel, count: int = 3, **cond: Callable[[int], Tensor]) -> list[Call]:
    generator = torch.Generator().manual_seed(0)
    times = torch.linspace(10, 990, count).long()
    given = {name: value(2) for name, value in cond.items()}
    return [Call(torch.randn(2, *model.sample_shape, generator=generator), t.expand(2), given, 0) for t in times]


def compressed(
    model: DiffusionModel, method: Quantize, calls: Iterable[Call]
) -> tuple[DiffusionModel, dict[str, Tensor]]:
    student = model.copy()
    return student, compress(student, model, {"ptq": method}, lambda _: calls, no_training)


MODELS: dict[str, tuple[Callable[[], DiffusionModel], dict[str, Callable[[int], Tensor]]]] = {
    "unconditional": (tiny.unconditional_model, {}),
    "class": (tiny.class_model, {"class_labels": lambda count: torch.arange(count)}),
    "transformer": (tiny.dit_model, {"class_labels": lambda count: torch.arange(count)}),
    "text": (tiny.text_model, {"encoder_hidden_states": lambda count: torch.ones(count, 5, 12)}),
}


@pytest.mark.parametrize("kind", MODELS)
def test_every_kind_of_model_is_quantised_whole_and_says_so(kind: str) -> None:
    build, cond = MODELS[kind]
    model = build()
    calls = recorded(model, **cond)
    method = ptq(weight_bits=4, activation_bits=4, **UNSEARCHED)
    student, _ = compressed(model, method, calls)
    proof = method.fired(student)
    assert proof["share_of_layers"] == proof["share_of_weights"] == 1.0
    assert proof["quantised_products"] > 0
    assert "residual additions" in proof["unquantised"]
    call = calls[0]
    plain, rounded = (m.predict(call.x, call.t, call.cond) for m in (model, student))
    assert torch.isfinite(rounded).all()
    assert 0 < (rounded - plain).pow(2).mean() < plain.pow(2).mean()


@cache
def four_bit() -> tuple[DiffusionModel, Quantize, DiffusionModel, dict[str, Tensor]]:
    """A model, the method at W4A4, what it made of the model, and its state; no test changes them."""
    model, method = tiny.unconditional_model(), ptq(weight_bits=4, activation_bits=4)
    return model, method, *compressed(model, method, recorded(model))


def test_fired_gives_each_layers_bits_grid_and_steps_and_names_what_is_left() -> None:
    model = tiny.unconditional_model()
    method = ptq(weight_bits=4, activation_bits=8, ends="full", attention="full", **UNSEARCHED)
    student, _ = compressed(model, method, recorded(model))
    proof = method.fired(student)
    layer = proof["layers"]["mid_block.resnets.0.conv1"]
    assert (layer["weight_quantizer"]["bits"], layer["weight_quantizer"]["grid"]) == (4, "symmetric")
    assert (layer["input_quantizer"]["bits"], layer["input_quantizer"]["grid"]) == (8, "shifted")
    smallest, largest = layer["weight_quantizer"]["step"]
    assert 0 < smallest < largest
    assert {"conv_in", "conv_out", "mid_block.attentions.0 (q k^T, P v)", "softmax"} <= set(proof["unquantised"])
    assert proof["share_of_layers"] < 1
    assert "W4A8" in proof["setting"]
    assert "ends full" in proof["setting"]


def test_a_layer_without_calibration_is_not_called_quantised() -> None:
    model = tiny.unconditional_model()
    method = ptq()
    method.prepare(model)
    assert method.fired(model)["share_of_layers"] == 0.0


def test_the_file_on_disk_gives_identical_images(tmp_path: Path) -> None:
    model, method, student, state = four_bit()
    images = student.generate([1, 2], None, tiny.DDIM)
    rebuilt = model.copy()
    restore(rebuilt, {"ptq": method}, load_state(save(state, tmp_path)))
    assert torch.equal(rebuilt.generate([1, 2], None, tiny.DDIM), images)
    assert method.fired(rebuilt) == method.fired(student)


def test_full_precision_weights_survive_in_the_saved_state() -> None:
    model, _, _, state = four_bit()
    plain = model.denoiser.state_dict()
    assert torch.equal(state["conv_in.layer.weight"], plain["conv_in.weight"])


def test_a_file_of_other_settings_is_refused(tmp_path: Path) -> None:
    model, _, _, state = four_bit()
    with pytest.raises(RequestError, match="same model and methods"):
        restore(model.copy(), {"ptq": ptq(split="none")}, state)


def test_calibrating_twice_gives_the_same_tensors() -> None:
    model = tiny.unconditional_model()
    calls = recorded(model)
    first, second = (compressed(model, ptq(values=256, **UNSEARCHED), calls)[1] for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_calls_made_by_the_student_itself_are_not_observed_twice() -> None:
    """Calls are recorded lazily by sampling the very network that is observed; only their replay counts."""
    model = tiny.unconditional_model()
    calls = recorded(model)

    class Sampled:
        def __init__(self, student: DiffusionModel) -> None:
            self.student = student

        def __iter__(self) -> Iterator[Call]:
            for call in calls:
                self.student.predict(call.x * 100, call.t, call.cond)
                yield call

    lazily, listed = model.copy(), model.copy()
    a = compress(lazily, model, {"ptq": ptq(**UNSEARCHED)}, Sampled, no_training)
    b = compress(listed, model, {"ptq": ptq(**UNSEARCHED)}, lambda _: calls, no_training)
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_calibration_leaves_no_hook_and_folding_keeps_the_output() -> None:
    model = tiny.unconditional_model()
    method, calls = ptq(weight_bits=4, activation_bits=4, **UNSEARCHED), recorded(model)
    method.prepare(model)
    method.calibrate(model, calls)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.denoiser.modules())
    call = calls[1]
    with torch.no_grad():
        before = model.predict(call.x, call.t, call.cond)
        method.finalize(model)
        assert torch.equal(model.predict(call.x, call.t, call.cond), before)


def test_weights_alone_or_activations_alone_can_be_quantised() -> None:
    model = tiny.unconditional_model()
    for bits in ({"weight_bits": 4, "activation_bits": 32}, {"weight_bits": 32, "activation_bits": 4}):
        student, _ = compressed(model, ptq(**bits, softmax_bits=32, attention="same", **UNSEARCHED), recorded(model))
        layer = student.denoiser.get_submodule("mid_block.resnets.0.conv1")
        assert isinstance(layer, QuantizedLayer)
        assert (layer.weight_bits, layer.activation_bits) == tuple(bits.values())


def test_a_zero_initialised_layer_stays_exact_and_is_flagged() -> None:
    model = tiny.unconditional_model()
    torch.nn.init.zeros_(model.denoiser.get_parameter("mid_block.resnets.0.conv2.weight"))
    method = ptq(weight_bits=4)
    student, _ = compressed(model, method, recorded(model))
    flagged = method.fired(student)["degenerate"]
    assert flagged == ["mid_block.resnets.0.conv2.weight_quantizer"]
    assert student.denoiser.get_submodule("mid_block.resnets.0.conv2").folded.abs().max() == 0
    call = recorded(model)[0]
    assert torch.isfinite(student.predict(call.x, call.t, call.cond)).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_calibration_data_that_is_not_finite_is_refused_by_name(bad: float) -> None:
    model = tiny.unconditional_model()
    calls = recorded(model)
    calls[1].x[0, 0, 0, 0] = bad
    with pytest.raises(RequestError, match=r"calibration=conv_in\.input_quantizer.*NaN or infinity"):
        compressed(model, ptq(), calls)


def test_weights_that_are_not_finite_are_refused_by_name() -> None:
    model = tiny.unconditional_model()
    with torch.no_grad():
        model.denoiser.get_parameter("mid_block.resnets.0.conv2.weight")[0, 0, 0, 0] = float("nan")
    with pytest.raises(RequestError, match=r"mid_block\.resnets\.0\.conv2"):
        compressed(model, ptq(), recorded(model))


def test_no_calls_at_all_is_an_error() -> None:
    with pytest.raises(RequestError, match="calibration=empty"):
        compressed(tiny.unconditional_model(), ptq(), [])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weight_bits", 1),
        ("weight_bits", 33),
        ("activation_bits", 0),
        ("softmax_bits", 1),
        ("weight_search", "best"),
        ("ends", "8"),
        ("search.exponent", 0.0),
        ("search.candidates", 1),
        ("search.lowest", 1.0),
        ("search.percentile", 0.2),
        ("values", 3),
        ("weight_bits", "four"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(RequestError) as refused:
        ptq(**{field: value})
    assert refused.value.key.endswith(field.rpartition(".")[2])


def test_settings_that_change_nothing_are_refused() -> None:
    with pytest.raises(RequestError, match="below 32"):
        ptq(weight_bits=32, activation_bits=32)


@pytest.mark.parametrize("search", ["minmax", "percentile", "moving", "mse", "cosine", "kl"])
def test_every_search_calibrates_every_quantiser(search: Any) -> None:
    model = tiny.unconditional_model()
    student, _ = compressed(model, ptq(weight_search=search, activation_search=search), recorded(model))
    assert all(quantizer.on for quantizer in student.denoiser.modules() if isinstance(quantizer, Quantizer))


def test_a_model_in_half_precision_keeps_its_dtype_and_its_steps_in_float32() -> None:
    model = tiny.unconditional_model()
    model.denoiser.to(torch.bfloat16)
    calls = [Call(call.x.bfloat16(), call.t, call.cond, call.step) for call in recorded(model)]
    student, state = compressed(model, ptq(attention="full", **UNSEARCHED), calls)
    assert student.dtype == torch.bfloat16
    assert {state[key].dtype for key in state if key.endswith("source.step")} == {torch.float32}
    assert student.predict(calls[0].x, calls[0].t, {}).dtype == torch.bfloat16


@pytest.fixture(scope="module")
def digits() -> tuple[DiffusionModel, list[Call]]:
    """The trained model that ships, and calls from its own trajectories."""
    from parediff.sampling.images import calls
    from parediff.sampling.workload import Workload

    model = PretrainedPipeline(name="ddpm_digits", path="assets://ddpm_digits").load("cpu")
    sampler = Sampler(name="ddim", scheduler="DDIMScheduler", steps=8)
    workload = Workload(first_seed=0, count=16, batch_size=16, blocks=1, conditions=None)
    return model, list(calls(model, workload, sampler))


def output_error(model: DiffusionModel, calls: list[Call], **settings: Any) -> float:
    student, _ = compressed(model, ptq(**{"search.exponent": 2.0}, **settings), calls)
    with torch.no_grad():
        errors = [
            student.predict(call.x, call.t, call.cond) - model.predict(call.x, call.t, call.cond) for call in calls
        ]
    return float(torch.cat(errors).square().mean())


@pytest.mark.slow
def test_on_the_trained_model_more_bits_are_always_closer(digits: tuple[DiffusionModel, list[Call]]) -> None:
    errors = [
        output_error(*digits, weight_bits=bits, activation_bits=bits, ends="same", time_layers="same", attention="same")
        for bits in range(2, 9)
    ]
    assert all(fewer > more for fewer, more in pairwise(errors)), errors
    assert errors[-1] < 1e-2 * errors[0]


@pytest.mark.slow
def test_on_the_trained_model_the_choices_of_the_defaults_pay(digits: tuple[DiffusionModel, list[Call]]) -> None:
    four = {"weight_bits": 4, "activation_bits": 4}
    best = output_error(*digits, **four)
    assert best < 0.8 * output_error(*digits, **four, silu_grid="symmetric")
    assert best < 0.8 * output_error(*digits, **four, weight_search="minmax", activation_search="minmax")
    assert best < 0.8 * output_error(*digits, **four, ends="same")
    assert best < output_error(*digits, **four, weight_groups="tensor")


@pytest.mark.slow
def test_simulated_arithmetic_costs_at_most_three_tenths_more() -> None:
    """Processor seconds of alternating pairs on the DDPM CIFAR-10 UNet, W8A8, one thread."""
    network = tiny.unet(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        layers_per_block=2,
        norm_num_groups=32,
        block_out_channels=(128, 256, 256, 256),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=None,
    )
    model = DiffusionModel(DDPMPipeline(network, tiny.scheduler()), name="cifar10_unet")
    student, _ = compressed(model, ptq(weight_search="minmax", activation_search="minmax"), recorded(model, 1))

    @torch.no_grad()
    def seconds(timed: DiffusionModel) -> float:
        start = time.process_time()
        timed.predict(torch.zeros(1, 3, 32, 32), torch.tensor([5]), {})
        return time.process_time() - start

    pairs = [(seconds(student), seconds(model)) for _ in range(9)]
    assert statistics.median(slow / plain for slow, plain in pairs[2:]) <= 1.3
