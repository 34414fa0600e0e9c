"""NIPQ from beginning to end: phases, switch, resume, statistics, and the ordinary quantised model it leaves."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import tiny
from parediff.bench import noise_training
from parediff.cost import counting
from parediff.data.digits import Digits
from parediff.errors import RequestError
from parediff.methods.nipq import Nipq
from parediff.models.classifiers.model import ClassifierModel
from parediff.models.classifiers.networks import ConvNet
from parediff.models.diffusion.door import Call
from parediff.pipeline.compress import compress, restore
from parediff.quantization.layers import QuantizedLayer, QuantizedMatmul
from parediff.quantization.noise import BitRange, NoiseQuantizer, Uniform, operands, products, quantizers
from parediff.training.batchnorm import reestimate
from parediff.training.fit import Trainer
from parediff.training.nipq import NoiseTraining

SETTINGS: dict[str, Any] = {
    "target_bits": 4.0,
    "target_gbops": None,
    "target_width": None,
    "uniform_bits": None,
    "uniform_activation_bits": None,
    "allocation": "learned",
    "bits_min": 2,
    "bits_max": 14,
    "bits_start": 8.0,
    "noise": "uniform",
    "skip": (),
    "attention": True,
    "image_input": False,
    "budget_strength": 1.0,
    "budget_unit": None,
    "rounding_share": 0.25,
    "optimizer": "adamw",
    "learning_rate": 1e-3,
    "quantizer_learning_rate": 1e-2,
    "bits_learning_rate": 3e-2,
    "warmup_steps": 0,
    "weight_decay": 1e-5,
    "ema_decay": 0.9,
    "distillation": 1.0,
    "shift": 0,
    "norm_batches": 20,
    "seed": 0,
}


def nipq(**changes: Any) -> Nipq:
    return Nipq(**(SETTINGS | changes))


def trainer(steps: int, **changes: Any) -> Trainer:
    settings: dict[str, Any] = {
        "max_steps": steps,
        "gradient_clip": 1.0,
        "accelerator": "cpu",
        "devices": 1,
        "precision": "32-true",
        "validate_every": 0,
        "checkpoint_every": 0,
        "keep_checkpoints": -1,
        "log_every": 50,
        "progress": False,
    }
    return Trainer(**(settings | changes))


def digits(batch_size: int = 64) -> Digits:
    return Digits(held_out=0.2, split_seed=0, seed=0, batch_size=batch_size, workers=0, flip=False)


def classifier() -> ClassifierModel:
    return _classifier().copy()


@cache
def _classifier() -> ClassifierModel:
    torch.manual_seed(0)
    network = ConvNet(in_channels=1, channels=(8, 8), strides=(1, 2), classes=10)
    reestimate(network, [images(digits())])
    return ClassifierModel(network, name="small")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[NoiseTraining, Path]:
    """A training of 40 steps, of which the last 10 round, and its checkpoints of every 12."""
    folder = tmp_path_factory.mktemp("whole")
    _, whole = prepared(nipq())
    trainer(40, checkpoint_every=12).fit(whole, folder, data=digits())
    return whole, folder / "checkpoints"


def images(data: Digits, count: int = 256) -> Tensor:
    return torch.stack([data.train[index][0] for index in range(count)])


def prepared(method: Nipq) -> tuple[ClassifierModel, NoiseTraining]:
    """A calibrated student and its learner."""
    teacher = classifier()
    student = teacher.copy()
    method.prepare(student)  # type: ignore[arg-type]
    method.calibrate(student, [student.call(images(digits()))])  # type: ignore[arg-type]
    return student, method.training(student, teacher)  # type: ignore[arg-type]


def compressed(method: Nipq, folder: Path, steps: int = 80) -> tuple[ClassifierModel, dict[str, Tensor]]:
    teacher = classifier()
    student = teacher.copy()
    calls = [student.call(images(digits()))]
    state = compress(
        student,  # type: ignore[arg-type]
        teacher,  # type: ignore[arg-type]
        {"nipq": method},
        lambda _: calls,
        lambda name, module: trainer(steps).fit(module, folder / name, data=digits()),
    )
    return student, state


def test_bits_go_down_to_the_average_that_was_asked_for(tmp_path: Path) -> None:
    student, _ = compressed(nipq(target_bits=4.0), tmp_path, steps=60)
    fired = nipq().fired(student)  # type: ignore[arg-type]
    assert fired["average_weight_bits"] == pytest.approx(4.0, rel=0.02)
    assert fired["average_activation_bits"] == pytest.approx(4.0, rel=0.02)
    assert fired["budget"]["target"] == 4.0
    assert fired["budget"]["spent"]["weight"] == fired["average_weight_bits"]
    assert set(fired["widths"]) == {"blocks.0.0", "blocks.1.0", "linear"}
    assert fired["widths"]["blocks.0.0"]["activation_bits"] == 32


def test_operations_go_down_to_the_target_that_was_asked_for(tmp_path: Path) -> None:
    macs = [64 * 8 * 9, 16 * 8 * 72, 80]
    target = (macs[0] * 32 * 4 + (macs[1] + macs[2]) * 16) / 1e9
    method = nipq(target_gbops=target, target_bits=None)
    student, _ = compressed(method, tmp_path, steps=60)
    fired = method.fired(student)  # type: ignore[arg-type]
    assert fired["gbops"] == pytest.approx(target, rel=0.02)
    assert fired["budget"] == {"unit": "GBOPs", "target": target, "spent": fired["gbops"]}
    with counting(student.denoiser) as counter:
        student.denoiser(images(digits(), 2))
    assert counter.per_image(2).bops / 1e9 == pytest.approx(fired["gbops"], rel=1e-6)


def test_the_operations_of_a_width_are_those_of_the_control_at_that_width(tmp_path: Path) -> None:
    control = nipq(uniform_bits=4, uniform_activation_bits=6, rounding_share=1.0)
    held, _ = compressed(control, tmp_path / "held", steps=4)
    method = nipq(target_width="W4A6", bits_start=5.0)
    student, _ = compressed(method, tmp_path / "learned", steps=60)
    fired = method.fired(student)  # type: ignore[arg-type]
    wanted = control.fired(held)["gbops"]  # type: ignore[arg-type]
    assert fired["budget"] == {"unit": "GBOPs", "target": pytest.approx(wanted, rel=1e-12), "spent": fired["gbops"]}
    assert fired["gbops"] == pytest.approx(wanted, rel=0.02)


def test_what_is_left_is_an_ordinary_quantised_model_on_integer_grids(tmp_path: Path) -> None:
    student, _ = compressed(nipq(), tmp_path, steps=12)
    assert not any(isinstance(module, NoiseQuantizer) for module in student.denoiser.modules())
    layers = [module for module in student.denoiser.modules() if isinstance(module, QuantizedLayer)]
    assert len(layers) == 3
    for layer in layers:
        codes = tiny.integers(layer.weight_quantizer, layer.weight)
        assert int(codes.integers.abs().max()) <= 2 ** (layer.weight_bits - 1) - 1
        assert torch.equal(codes.dequantize(), layer.quantized_weight())
        assert torch.equal(layer.folded, layer.quantized_weight())  # type: ignore[arg-type]


def test_a_saved_state_restores_the_same_model(tmp_path: Path) -> None:
    student, state = compressed(nipq(), tmp_path, steps=12)
    again = classifier()
    restore(again, {"nipq": nipq()}, state)  # type: ignore[arg-type]
    x = images(digits(), 16)
    assert torch.equal(again.denoiser(x), student.denoiser(x))


def test_n8_after_the_switch_no_optimiser_moves_a_bit() -> None:
    quantizer = NoiseQuantizer(BitRange(2, 14, 6.2), Uniform())
    quantizer.fill(torch.tensor(2.0), "symmetric")
    optimizer = torch.optim.SGD(quantizer.parameters(), lr=0.5, momentum=0.99)
    quantizer.integer_bits().backward()
    optimizer.step()
    quantizer.freeze()
    bits = quantizer.bits
    for _ in range(100):
        optimizer.zero_grad(set_to_none=False)
        quantizer(torch.randn(8)).square().mean().backward()
        optimizer.step()
        assert quantizer.bits == bits


@pytest.mark.parametrize("optimizer", ["sgd", pytest.param("adamw", marks=pytest.mark.slow)])
def test_n8_frozen_bits_leave_the_optimiser_and_stay(tmp_path: Path, optimizer: str) -> None:
    _, learner = prepared(nipq(optimizer=optimizer, learning_rate=1e-2))
    seen: list[tuple[int, list[Tensor], list[int]]] = []
    after = learner.on_train_batch_end

    def watch(*args: Any, **kwargs: Any) -> None:
        thetas = [quantizer.theta_bits.detach().clone() for quantizer in quantizers(learner.network)]
        group = learner.trainer.optimizers[0].param_groups[-1]["params"]
        seen.append((len(group), thetas, [quantizer.bits for quantizer in quantizers(learner.network)]))
        after(*args, **kwargs)

    learner.on_train_batch_end = watch  # type: ignore[method-assign]
    trainer(40).fit(learner, tmp_path, data=digits())
    before, since = seen[:30], seen[30:]
    assert all(count > 0 for count, _, _ in before)
    assert all(count == 0 for count, _, _ in since)
    assert all(bits == since[0][2] for _, _, bits in since)
    for _, thetas, _ in since:
        assert all(torch.equal(now, then) for now, then in zip(thetas, before[-1][1], strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(before[0][1], before[-1][1], strict=True))


def test_the_average_starts_anew_at_the_switch(tmp_path: Path) -> None:
    _, fresh = prepared(nipq(ema_decay=0.999, norm_batches=1))
    counts: list[int] = []
    fresh.on_train_batch_end = lambda *_, **__: counts.append(int(fresh.ema.updates))  # type: ignore[method-assign]
    trainer(40).fit(fresh, tmp_path, data=digits())
    assert fresh.rounds
    assert counts == [*range(1, 31), *range(1, 11)]


@pytest.mark.parametrize("interrupted", [pytest.param(12, marks=pytest.mark.slow), 36])
def test_a_training_resumed_in_either_phase_ends_as_the_uninterrupted_one(
    tmp_path: Path, uninterrupted: tuple[NoiseTraining, Path], interrupted: int
) -> None:
    whole, checkpoints = uninterrupted
    _, resumed = prepared(nipq())
    trainer(40).fit(resumed, tmp_path, data=digits(), ckpt_path=str(checkpoints / f"step={interrupted}.ckpt"))
    assert resumed.rounds
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(resumed.network.state_dict()[name], tensor), name


@pytest.mark.parametrize(("interrupted", "steps"), [(36, 200), (24, 26)])
def test_a_checkpoint_of_the_other_phase_is_refused(
    tmp_path: Path, uninterrupted: tuple[NoiseTraining, Path], interrupted: int, steps: int
) -> None:
    checkpoint = uninterrupted[1] / f"step={interrupted}.ckpt"
    _, resumed = prepared(nipq())
    with pytest.raises(RequestError, match=r"ckpt_path=step .* phase 2 begins at step"):
        trainer(steps).fit(resumed, tmp_path, data=digits(), ckpt_path=str(checkpoint))


def test_a_state_of_the_noise_phase_is_no_quantised_model() -> None:
    student, _ = prepared(nipq())
    again = classifier()
    with pytest.raises(RequestError, match=r"checkpoint=of the noise phase"):
        restore(again, {"nipq": nipq()}, student.denoiser.state_dict())  # type: ignore[arg-type]


def test_n14_statistics_of_batchnorm_are_those_of_the_rounding_network(tmp_path: Path) -> None:
    data = digits(batch_size=256)
    _, learner = prepared(nipq())
    trainer(40).fit(learner, tmp_path, data=data)
    network = learner.network
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        seen: list[Tensor] = []
        hook = norm.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        with torch.no_grad():
            network.eval()(images(data, len(data.train)))  # type: ignore[arg-type]
        hook.remove()
        values = seen[0].transpose(0, 1).flatten(1)
        spread = values.std(1)
        assert float(((norm.running_mean - values.mean(1)).abs() / spread).max()) < 0.01  # type: ignore[operator]
        assert float((norm.running_var / values.var(1) - 1).abs().max()) < 0.01  # type: ignore[operator]


def test_validation_sees_the_true_quantiser_already_in_the_first_phase() -> None:
    student, learner = prepared(nipq())
    x = images(digits(), 8)
    learner.network.eval()
    assert torch.equal(learner.network(x), learner.network(x))
    first = next(iter(products(student.denoiser).values()))
    before = first(x)
    weight, activation = (quantizer.ordinary() for quantizer in operands(first))
    assert torch.equal(QuantizedLayer(first.layer, weight, activation)(x), before)


@pytest.mark.slow
def test_a_unet_learns_bits_of_its_layers_and_of_its_attention(tmp_path: Path) -> None:
    teacher = tiny.unconditional_model()
    student = teacher.copy()
    method = nipq(target_bits=5.0, distillation=0.5)
    calls = [Call(torch.randn(4, 1, 8, 8), torch.tensor([10, 300, 600, 900]), {}, 0)]
    compress(
        student,
        teacher,
        {"nipq": method},
        lambda _: calls,
        lambda name, module: trainer(12, gradient_clip=1.0).fit(module, tmp_path / name, data=digits(16)),
    )
    fired = method.fired(student)
    attention = [bits for bits in fired["widths"].values() if "a_bits" in bits]
    assert attention
    assert all(2 <= bits["a_bits"] <= 14 for bits in attention)
    assert any(isinstance(module, QuantizedMatmul) for module in student.denoiser.modules())
    grids = {m.input_quantizer.grid.kind for m in student.denoiser.modules() if isinstance(m, QuantizedLayer)}
    assert "shifted" in grids
    assert student.generate([1], None, tiny.DDIM).shape == (1, 1, 8, 8)


def test_a_model_of_latents_or_text_is_refused_before_training() -> None:
    model, method = tiny.text_model(), nipq()
    method.prepare(model)
    x, context = torch.randn(1, 4, 8, 8), torch.randn(1, 8, 12)
    method.calibrate(model, [Call(x, torch.tensor([5]), {"encoder_hidden_states": context}, 0)])
    with pytest.raises(RequestError, match="a model of pixels"):
        method.training(model, model.copy())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_bits": 1.5}, "target_bits=1.5"),
        ({"target_bits": 20.0}, "target_bits=20.0"),
        ({"target_bits": None}, "target_bits=null"),
        ({"bits_min": 9, "bits_max": 4}, "bits_max=4"),
        ({"bits_start": 1.0}, "bits_start=1.0"),
        ({"rounding_share": 1.0}, "rounding_share=1.0"),
        ({"noise": "gaussian"}, "noise=gaussian"),
        ({"target_gbops": -1.0}, "target_gbops=-1.0"),
        ({"target_width": "4 bits"}, "target_width=4 bits"),
        ({"target_width": "W2A2"}, "target_width=W2A2"),
        ({"target_width": "W4A20"}, "target_width=W4A20"),
        ({"uniform_activation_bits": 3}, "uniform_activation_bits=3"),
        ({"uniform_bits": 3, "allocation": "sensitivity"}, "allocation=sensitivity"),
    ],
)
def test_a_request_that_makes_no_sense_names_the_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        nipq(**changes)


def test_a_target_out_of_reach_is_refused_before_training() -> None:
    method = nipq(target_gbops=1e-9)
    student = classifier()
    method.prepare(student)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=r"target_gbops=1e-09: reachable"):
        method.calibrate(student, [student.call(images(digits()))])  # type: ignore[arg-type]


def test_too_few_steps_for_two_phases_are_refused(tmp_path: Path) -> None:
    _, learner = prepared(nipq(rounding_share=0.25))
    with pytest.raises(RequestError, match="max_steps"):
        trainer(1).fit(learner, tmp_path, data=digits())


@pytest.mark.slow
def test_the_cost_of_a_training_step_is_measured_for_either_noise(tmp_path: Path) -> None:
    output = tmp_path / "rows.json"
    settings = ["depth=8", "batch=2", "repeats=2", f"output={output}"]
    assert noise_training.main(settings, Console(quiet=True)) == 0
    rows = json.loads(output.read_text())
    assert [row["step"] for row in rows] == ["uniform noise", "histogram noise", "rounding"]
    assert all(row["ratio"] > 0 and row["seconds"] > 0 for row in rows)


def test_the_uniform_control_holds_its_width_and_rounds_from_the_first_step(tmp_path: Path) -> None:
    method = nipq(uniform_bits=3, rounding_share=1.0)
    student, _ = compressed(method, tmp_path, steps=6)
    layers = method.fired(student)["widths"].values()  # type: ignore[arg-type]
    assert {bits["weight_bits"] for bits in layers} == {3}
    _, learner = prepared(method)
    rounding: list[bool] = []
    learner.on_train_batch_end = lambda *_, **__: rounding.append(learner.rounds)  # type: ignore[method-assign]
    trainer(3).fit(learner, tmp_path / "again", data=digits())
    assert rounding == [True] * 3


def test_controls_hold_weights_and_activations_at_widths_of_their_own_or_allocate_them_first(tmp_path: Path) -> None:
    held = nipq(uniform_bits=2, uniform_activation_bits=3, rounding_share=1.0)
    student, _ = compressed(held, tmp_path / "held", steps=4)
    widths = held.fired(student)["widths"]  # type: ignore[arg-type]
    assert {one["weight_bits"] for one in widths.values()} == {2}
    assert {one["activation_bits"] for one in widths.values()} == {3, 32}
    given = nipq(allocation="sensitivity", target_bits=4.0, rounding_share=1.0)
    student, _ = compressed(given, tmp_path / "given", steps=4)
    fired = given.fired(student)  # type: ignore[arg-type]
    assert fired["average_weight_bits"] == pytest.approx(4.0, rel=0.02)
    assert fired["share_of_layers"] == 1.0


@pytest.mark.slow
def test_the_notebook_of_learned_bits_runs(tmp_path: Path) -> None:
    import shutil

    import nbformat
    from nbclient import NotebookClient

    root = Path(__file__).parent.parent
    book = nbformat.read(root / "notebooks" / "learned_bits.ipynb", as_version=4)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "experiments" / "nipq").mkdir(parents=True)
    shutil.copy(root / "experiments" / "nipq" / "measured.json", tmp_path / "experiments" / "nipq")
    NotebookClient(book, timeout=900, resources={"metadata": {"path": str(tmp_path / "notebooks")}}).execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
