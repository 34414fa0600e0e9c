"""Every kind of model under every sampler: seeds, the door, wrappers, calls."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import yaml
from diffusers import DDIMScheduler
from torch import Tensor

import tiny
from composing import UNSEARCHED, method_of
from parediff.errors import RequestError
from parediff.models.diffusion.attention import Products, attentions, explicit_attention
from parediff.models.diffusion.door import Call, Run, observing, recording
from parediff.models.diffusion.families import accepted_samplers
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.resources import shipped

SAMPLERS = accepted_samplers(DDIMScheduler, tiny.scheduler().config)
KINDS: dict[str, tuple[Callable[[], DiffusionModel], Sequence[Any] | None]] = {
    "unconditional": (tiny.unconditional_model, None),
    "class": (tiny.class_model, (2, 0, 1)),
    "class_guided": (lambda: tiny.class_model(2.0), (2, 0, 1)),
    "dit": (tiny.dit_model, (5, 1, 9)),
    "dit_guided": (lambda: tiny.dit_model(3.0), (5, 1, 9)),
    "text": (tiny.text_model, ("a cat", "dog", "bird")),
    "text_guided": (lambda: tiny.text_model(3.0), ("a cat", "dog", "bird")),
}


def sampler(name: str, **changes: Any) -> Sampler:
    node = yaml.safe_load((shipped("conf") / "sampler" / f"{name}.yaml").read_text())
    node.pop("_target_")
    return Sampler(**(node | {"steps": 3} | changes))


GUIDED = ("class_guided", "dit_guided", "text_guided")
PLAIN = [pytest.param(kind.removesuffix("_guided"), marks=pytest.mark.slow) for kind in GUIDED]
"""The same pipelines with one branch of the two; other tests draw from them under one sampler."""


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("kind", ["unconditional", *GUIDED, *PLAIN])
def test_image_i_depends_on_seed_i_and_condition_i_only(kind: str, name: str) -> None:
    build, conditions = KINDS[kind]
    model = build()
    together = model.generate([1, 2, 3], conditions, sampler(name))
    picked = None if conditions is None else (conditions[2], conditions[0])
    apart = model.generate([3, 1], picked, sampler(name))
    assert torch.allclose(together[[2, 0]], apart, atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


def test_stochastic_samplers_leave_the_global_generator_alone() -> None:
    model = tiny.unconditional_model()
    state = torch.random.get_rng_state()
    for name in ("ddpm", "euler_ancestral"):
        model.generate([1], None, sampler(name))
    model.generate([1], None, sampler("ddim", eta=1.0))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_eta_makes_ddim_stochastic_and_is_refused_elsewhere() -> None:
    model = tiny.unconditional_model()
    plain, noisy = (model.generate([1], None, sampler("ddim", eta=eta)) for eta in (0.0, 1.0))
    assert not torch.equal(plain, noisy)
    with pytest.raises(RequestError, match="no eta"):
        sampler("unipc", eta=0.5)


def test_conditions_matter() -> None:
    for build in (tiny.class_model, tiny.dit_model, tiny.text_model):
        model = build()
        choices = ("cat", "dog") if model.conditioning == "text" else (0, 1)
        first, second = (model.generate([1], [choice], tiny.DDIM) for choice in choices)
        assert not torch.equal(first, second)


def test_class_models_draw_all_classes_in_turn_where_none_is_named() -> None:
    model = tiny.class_model()
    assert model.num_classes == 3
    assert model.conditions_for([0, 1, 2, 3]) == (0, 1, 2, 0)
    assert torch.equal(model.generate([4], None, tiny.DDIM), model.generate([4], [1], tiny.DDIM))


def test_prompts_are_needed_where_there_is_text_and_refused_where_there_is_none() -> None:
    with pytest.raises(RequestError, match="prompts are needed"):
        tiny.text_model().generate([1], None, tiny.DDIM)
    with pytest.raises(RequestError, match="takes no conditions"):
        tiny.unconditional_model().generate([1], ["a cat"], tiny.DDIM)


@pytest.mark.parametrize("kind", KINDS)
def test_replaying_a_recorded_call_reproduces_the_captured_output(kind: str) -> None:
    build, conditions = KINDS[kind]
    model = build()
    outputs: list[Tensor] = []
    with recording(model) as calls, observing(model, lambda call, output: outputs.append(output)):
        model.generate([1, 2, 3], conditions, tiny.DDIM)
    assert [call.step for call in calls] == list(range(5))
    for call, output in zip(calls, outputs, strict=True):
        assert call.t.shape == call.x.shape[:1]
        assert torch.allclose(model.predict(call.x, call.t, call.cond), output, atol=1e-5)


def test_respaced_schedules_record_the_time_that_the_network_sees() -> None:
    model = tiny.unconditional_model()
    spaced = Sampler("ddim", "DDIMScheduler", 4, options={"timestep_spacing": "trailing"})
    with recording(model) as calls:
        model.generate([1], None, spaced)
    assert [int(call.t) for call in calls] == [999, 749, 499, 249]


def test_guidance_is_one_doubled_call() -> None:
    model = tiny.dit_model(3.0)
    with recording(model) as calls:
        model.generate([1, 2], [3, 4], tiny.DDIM)
    assert len(calls) == 5
    assert all(len(call.x) == 4 for call in calls)
    assert calls[0].cond["class_labels"].tolist() == [3, 4, 1000, 1000]


def test_a_wrapper_knows_the_step_and_its_state_dies_with_the_run() -> None:
    model = tiny.unconditional_model()
    seen: list[tuple[int, int, int]] = []

    def factory(run: Run) -> Any:
        own = {"calls": 0}

        def wrapper(inner: Any, x: Tensor, t: Tensor, cond: Any) -> Tensor:
            own["calls"] += 1
            seen.append((run.index, run.steps, own["calls"]))
            assert int(run.timesteps[run.index]) == int(t[0])
            return inner(x, t, cond)

        return wrapper

    plain = model.generate([1], None, tiny.DDIM)
    model.wrap(factory)
    for _ in range(2):
        assert torch.equal(model.generate([1], None, tiny.DDIM), plain)
    assert seen == [(i, 5, i + 1) for i in range(5)] * 2


def test_a_later_wrapper_sits_outside_an_earlier_one() -> None:
    model = tiny.unconditional_model()
    order: list[str] = []
    for name in ("first", "second"):
        model.wrap(lambda run, name=name: lambda inner, x, t, cond: (order.append(name), inner(x, t, cond))[1])
    model.generate([1], None, Sampler("ddim", "DDIMScheduler", 1))
    assert order == ["second", "first"]


def test_a_failure_in_the_middle_of_a_run_closes_the_door() -> None:
    model = tiny.unconditional_model()
    scheduler = model.pipeline.scheduler

    def factory(run: Run) -> Any:
        def wrapper(inner: Any, x: Tensor, t: Tensor, cond: Any) -> Tensor:
            if run.index == 2:
                raise ArithmeticError("planted")
            return inner(x, t, cond)

        return wrapper

    expected = model.generate([1], None, tiny.DDIM)
    model.wrap(factory)
    with pytest.raises(ArithmeticError, match="planted"):
        model.generate([1], None, tiny.DDIM)
    assert "forward" not in model.denoiser.__dict__
    assert model.pipeline.scheduler is scheduler
    model.wrapper_factories.clear()
    assert torch.equal(model.generate([1], None, tiny.DDIM), expected)


def test_second_order_samplers_advance_with_the_scheduler_not_with_calls() -> None:
    model = tiny.unconditional_model()
    with recording(model) as calls:
        model.generate([1], None, sampler("heun", steps=4))
    assert [call.step for call in calls] == list(range(7))


def test_two_runs_at_once_on_one_model_are_refused() -> None:
    model = tiny.unconditional_model()
    errors: list[str] = []

    def nested(run: Run) -> Any:
        def wrapper(inner: Any, x: Tensor, t: Tensor, cond: Any) -> Tensor:
            def other() -> None:
                try:
                    model.generate([2], None, tiny.DDIM)
                except RuntimeError as error:
                    errors.append(str(error))

            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
            return inner(x, t, cond)

        return wrapper

    model.wrap(nested)
    model.generate([1], None, Sampler("ddim", "DDIMScheduler", 1))
    assert errors
    assert "one run at a time" in errors[0]


def test_a_copy_compresses_without_touching_the_original() -> None:
    model = tiny.unconditional_model()
    before = model.generate([1], None, tiny.DDIM)
    twin = model.copy()
    with torch.no_grad():
        for parameter in twin.denoiser.parameters():
            parameter.mul_(0.5)
    assert torch.equal(model.generate([1], None, tiny.DDIM), before)
    assert not torch.equal(twin.generate([1], None, tiny.DDIM), before)


@pytest.mark.parametrize("kind", KINDS)
def test_explicit_attention_computes_what_the_fused_kernel_does(kind: str) -> None:
    build, conditions = KINDS[kind]
    model = build()
    fused = model.generate([1, 2, 3], conditions, tiny.DDIM)
    paths = explicit_attention(model.denoiser)
    assert paths
    assert all(isinstance(module.products, Products) for module in attentions(model.denoiser).values())
    assert torch.allclose(model.generate([1, 2, 3], conditions, tiny.DDIM), fused, atol=1e-4)


class WritingAttention(torch.nn.Module):
    """Writes its product into a buffer, as kernels do that torch.compile made."""

    def __init__(self) -> None:
        super().__init__()
        self.to_out = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = torch.empty(len(x), x.shape[1], x.shape[1])
        torch.bmm(x, x.transpose(1, 2), out=scores)
        return self.to_out(torch.matmul(scores, x))


def test_a_product_that_is_written_into_a_buffer_is_no_further_product() -> None:
    network, x = torch.nn.Sequential(WritingAttention()), torch.randn(2, 3, 4)
    with torch.no_grad():
        before = network(x)
        assert explicit_attention(network) == ["0"]
        seen: list[str] = []
        for name, product in network[0].products.named_children():
            product.register_forward_hook(lambda *_, name=name: seen.append(name))
        assert torch.equal(network(x), before)
    assert seen == ["qk"]


@pytest.mark.slow
def test_a_quantised_network_is_compiled_in_one_piece_and_gives_the_same() -> None:
    model = tiny.unconditional_model()
    method = method_of("ptq", {"weight_bits": 3, "activation_bits": 3, "attention": "same", **UNSEARCHED})
    method.prepare(model)
    x, t = torch.randn(2, *model.sample_shape), torch.tensor([500, 500])
    method.calibrate(model, [Call(x, t, {}, 0)])
    method.finalize(model)
    with torch.no_grad():
        compiled = torch.compile(model.denoiser, fullgraph=True)(x, t, return_dict=False)[0]
        expected = model.predict(x, t, {})
    assert torch.allclose(compiled, expected, atol=1e-4)


def test_more_steps_than_were_trained_are_refused() -> None:
    with pytest.raises(RequestError, match="at most the 1000"):
        tiny.unconditional_model().generate([1], None, Sampler("ddim", "DDIMScheduler", 1001))
