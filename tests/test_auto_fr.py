"""Auto-FR: gates are exact where all are open, learn a budget, and touch nothing but themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMPipeline

import tiny
from parediff import cli
from parediff.errors import RequestError
from parediff.methods.auto_fr import AutoFR
from parediff.models.diffusion.door import Call, recording
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.pipeline.compress import compress
from parediff.reuse.engine import installed
from parediff.training.auto_fr import GateTraining
from parediff.training.base import generator_of
from parediff.training.fit import Trainer
from pipelines import folder, wake

STEPS = 6
DDIM = Sampler(name="ddim", scheduler="DDIMScheduler", steps=STEPS)


def auto_fr(**options: Any) -> AutoFR:
    defaults: dict[str, Any] = {
        "learn": "gradient",
        "steps": STEPS,
        "groups": 1,
        "share": None,
        "penalty": 0.0,
        "learning_rate": 0.05,
        "batch_size": 1,
        "scheduler": "DDIMScheduler",
        "reference_steps": STEPS,
        "mixing": "off",
        "temperature": 30,
        "bias": 0.5,
        "resnets": True,
        "attentions": True,
        "mlps": False,
        "blocks": "parts",
        "seed": 0,
    }
    return AutoFR(**(defaults | options))


def calls_of(model: DiffusionModel) -> list[Call]:
    with recording(model) as calls:
        model.generate([7, 8], None, DDIM)
    return calls


def trainer(steps: int) -> Trainer:
    return Trainer(steps, 1.0, "cpu", 1, "32-true", 0, 0, 1, 50, False)


def learned(model: DiffusionModel, method: AutoFR, folder: Path, steps: int = 4) -> DiffusionModel:
    student = model.copy()
    compress(student, model, {"auto_fr": method}, calls_of, lambda _, m: trainer(steps).fit(m, folder))
    return student


def training(model: DiffusionModel, method: AutoFR) -> tuple[DiffusionModel, GateTraining]:
    student = model.copy()
    method.prepare(student)
    module = method.training(student, model)
    assert isinstance(module, GateTraining)
    return student, module


@pytest.mark.parametrize("kind", ["unet", "class", "dit"])
@pytest.mark.parametrize("mixing", ["off", "hard"])
def test_open_gates_are_the_reference(kind: str, mixing: str) -> None:
    build = {"unet": tiny.unconditional_model, "class": tiny.class_model, "dit": tiny.dit_model}[kind]
    _, module = training(build(), auto_fr(mixing=mixing))
    assert float(module.loss(None, generator_of(0, 0))) < 1e-8


@pytest.mark.parametrize("mixing", ["off", "hard", "linear"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_what_is_trained_is_what_is_sampled(mixing: str, kind: str) -> None:
    """The student's latents in training, gates set by hand, against the wrapper at the door."""
    model = tiny.unconditional_model()
    model.pipeline.scheduler = tiny.scheduler(prediction_type=kind)
    student, module = training(model, auto_fr(mixing=mixing))
    module.gates.logits.data.copy_(torch.tensor([[-1.0, -1.0, 1.0, -1.0, -1.0]]))
    noise = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        latents = module.sample(noise, {})
    images = student.generate([3], None, DDIM)
    assert torch.allclose((latents / 2 + 0.5).clamp(0, 1), images, atol=1e-5)


def test_on_a_transformer_too_what_is_trained_is_what_is_sampled() -> None:
    network = tiny.transformer()
    wake(network)
    model = DiffusionModel(DDPMPipeline(network, tiny.scheduler()), name="tiny_pixel_dit")
    student, module = training(model, auto_fr(mlps=True))
    module.gates.logits.data.copy_(torch.tensor([[-1.0, -1.0, 1.0, -1.0, -1.0]]))
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        latents = module.sample(noise, {"class_labels": torch.tensor([7])})
    images = student.generate([3], (7,), DDIM)
    assert torch.allclose((latents / 2 + 0.5).clamp(0, 1), images, atol=1e-5)


def test_groups_are_gated_apart() -> None:
    model = tiny.unconditional_model()
    student, module = training(model, auto_fr(groups=2))
    logits = torch.tensor([[1.0, -1.0, 1.0, -1.0, -1.0], [1.0, 1.0, -1.0, -1.0, 1.0]])
    module.gates.logits.data.copy_(logits)
    noise = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        latents = module.sample(noise, {})
    images = student.generate([3], None, DDIM)
    assert torch.allclose((latents / 2 + 0.5).clamp(0, 1), images, atol=1e-5)
    plan = auto_fr(groups=2)._plan(student.denoiser, STEPS, 8)
    assert [None if step.full else sorted(step.fresh or ()) for step in plan] == [
        None,
        None,
        [4, 5, 6, 7],
        [0, 1, 2, 3],
        [],
        [4, 5, 6, 7],
    ]


def test_gradients_reach_every_gate_and_no_weight() -> None:
    student, module = training(tiny.unconditional_model(), auto_fr())
    module.gates.logits.data.copy_(torch.tensor([[1.0, -1.0, 1.0, -1.0, 1.0]]))
    module.loss(None, generator_of(0, 0)).backward()
    assert module.gates.logits.grad is not None
    assert bool((module.gates.logits.grad != 0).all())
    others = [p for name, p in student.denoiser.named_parameters() if "reuse_schedule" not in name]
    assert all(p.grad is None and not p.requires_grad for p in others)


def test_the_networks_activations_are_computed_again_instead_of_stored() -> None:
    student, module = training(tiny.unconditional_model(), auto_fr())
    module.gates.logits.data.fill_(-1.0)
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    hook = student.denoiser.conv_out.register_forward_hook(count)
    error = module.sample(torch.randn(2, 1, 8, 8), {}).square().mean()
    assert calls == STEPS
    error.backward()
    hook.remove()
    assert calls > STEPS


def test_a_growing_penalty_closes_gates(tmp_path: Path) -> None:
    model = tiny.unconditional_model()
    model.denoiser.to(torch.float64)  # without a penalty only rounding moves a gate: here it is too small to
    counts = []
    for penalty in (0.0, 10.0):
        student = learned(model, auto_fr(penalty=penalty, learning_rate=0.1), tmp_path / str(penalty), steps=2)
        counts.append(len(auto_fr().fired(student)["keyframes"][0]))
    assert counts[0] == STEPS
    assert counts[1] == 1


def test_the_same_seed_learns_the_same_schedule_and_leaves_the_weights(tmp_path: Path) -> None:
    model = tiny.unconditional_model()
    plain = {name: p.clone() for name, p in model.denoiser.named_parameters()}
    method = auto_fr(share=0.5)
    first, second = (learned(model, method, tmp_path / name, steps=2) for name in "ab")
    assert torch.equal(first.denoiser.reuse_schedule.logits, second.denoiser.reuse_schedule.logits)
    assert method.fired(first)["keyframes"] == method.fired(second)["keyframes"]
    assert len(method.fired(first)["keyframes"][0]) == 3
    assert all(torch.equal(p, plain[n]) for n, p in first.denoiser.named_parameters() if n in plain)
    assert not first.denoiser.reuse_schedule.logits.requires_grad


def test_greedy_needs_no_training_and_keeps_the_budget(tmp_path: Path) -> None:
    method = auto_fr(learn="greedy", share=0.5, groups=2)
    student = learned(tiny.unconditional_model(), method, tmp_path)
    assert [len(row) for row in method.fired(student)["keyframes"]] == [3, 3]
    student.generate([1], None, DDIM)
    assert installed(student, "auto_fr").tally.reuse > 0


def test_a_schedule_learned_for_another_number_of_steps_is_refused() -> None:
    student, _ = training(tiny.unconditional_model(), auto_fr())
    with pytest.raises(RequestError, match=r"sampler\.steps=4: 6, the steps that the schedule was learned for"):
        student.generate([1], None, Sampler(name="ddim", scheduler="DDIMScheduler", steps=4))


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"share": 0.0}, "share"),
        ({"learn": "greedy"}, "share"),
        ({"steps": 1}, "steps"),
        ({"groups": 0}, "groups"),
        ({"scheduler": "NoScheduler"}, "scheduler"),
        ({"learn": "magic"}, "learn"),
    ],
)
def test_a_wrong_request_is_named(options: dict, key: str) -> None:
    with pytest.raises(RequestError) as error:
        auto_fr(**options)
    assert error.value.key == key


def test_what_the_model_cannot_do_is_named() -> None:
    with pytest.raises(RequestError, match=r"groups=99: at most"):
        auto_fr(groups=99).prepare(tiny.unconditional_model())
    with pytest.raises(RequestError, match="learn=gradient: greedy, for models that draw from text, is accepted"):
        auto_fr().prepare(tiny.text_model())


def test_a_run_learns_its_schedule_without_any_data(tmp_path: Path) -> None:
    """The released Auto-FR draws noise and classes; a folder from somebody else comes with no images."""
    code = cli.main(
        [
            *("run", "model=pipeline", f"model.path={folder('dit', tmp_path)}", "method=[auto_fr]", "metric=[psnr]"),
            *("methods.auto_fr.batch_size=1", "trainer.max_steps=1", "sampler.steps=3", "reference.steps=3"),
            *("workload.count=1", "workload.blocks=1", "tracker=none", f"runs_dir={tmp_path / 'runs'}"),
        ]
    )
    (record,) = (tmp_path / "runs").glob("*/*/record.json")
    assert code == 0
    assert json.loads(record.read_text())["fired"]["auto_fr"]["keyframes"] == [[0, 2]]
