"""FRDiff: exact where it must be, live where it must be, and as cheap as published."""

from __future__ import annotations

import gc
import weakref
from functools import cache
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline
from torch import Tensor, nn

import reusing
import tiny
from parediff.cost import counting, peak_memory
from parediff.errors import RequestError
from parediff.models.diffusion.attention import explicit_attention
from parediff.models.diffusion.classes import Attention, ResnetBlock2D, Transformer2DModel
from parediff.models.diffusion.door import observing, recording
from parediff.models.diffusion.load import PretrainedPipeline
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.reuse.engine import FULL, Step, installed
from parediff.reuse.replacements import Cell, size_bytes
from reusing import by_hand, frdiff, with_method

SOLVERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "PNDMScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DPMSolverSDEScheduler",
    "UniPCMultistepScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
)
REUSE = Step(frozenset())
MODELS = {
    "unet": (tiny.unconditional_model, None),
    "class": (lambda: tiny.class_model(2.0), None),
    "text": (lambda: tiny.text_model(2.0), ("a", "b")),
    "dit": (lambda: tiny.dit_model(2.0), None),
}


def sampler(scheduler: str = "DDIMScheduler", steps: int = 6) -> Sampler:
    return Sampler(name="test", scheduler=scheduler, steps=steps)


def few_levels() -> DiffusionModel:
    """A model of 100 noise levels: KDPM2's schedulers work through all of them whenever one is made."""
    model = tiny.unconditional_model()
    model.pipeline.scheduler = DDIMScheduler(num_train_timesteps=100, clip_sample=False)
    return model


def calls_of(model: DiffusionModel, sampler: Sampler, seeds: tuple[int, ...] = (1, 2), given: Any = None) -> list:
    with recording(model) as calls:
        model.generate(seeds, given, sampler)
    return calls


@pytest.mark.parametrize("solver", SOLVERS)
def test_keyframes_everywhere_change_nothing(solver: str) -> None:
    model = few_levels()
    student = with_method(model, frdiff(interval=1))
    assert torch.equal(student.generate([1, 2], None, sampler(solver)), model.generate([1, 2], None, sampler(solver)))


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_keyframe_is_the_plain_network(kind: str, dtype: torch.dtype) -> None:
    build, given = MODELS[kind]
    model = with_method(build(), frdiff(mlps=True, mixing="off"))
    model.pipeline.to(dtype)
    seen: list[tuple] = []
    with observing(model, lambda call, output: seen.append((call, output))):
        model.generate([1, 2], given, sampler(steps=4))
    keyframes = [(call, output) for call, output in seen if call.step % 2 == 0]
    assert len(keyframes) == 2
    for call, output in keyframes:
        assert torch.equal(output, model.predict(call.x, call.t, call.cond))


@pytest.mark.parametrize("kind", MODELS)
def test_reusing_at_the_same_input_gives_the_same_output(kind: str) -> None:
    build, given = MODELS[kind]
    model = build()
    call = calls_of(model, sampler(), given=given)[2]
    reuser, run = by_hand(model, [FULL, REUSE], frdiff(mlps=True)._cuts)
    first = reuser(model.predict, call.x, call.t, call.cond)
    run.advance()
    assert torch.equal(reuser(model.predict, call.x, call.t, call.cond), first)
    assert torch.equal(first, model.predict(call.x, call.t, call.cond))
    assert (reuser.tally.full, reuser.tally.reuse) == (1, 1)


def substituted(model: DiffusionModel, first: Any, second: Any) -> Tensor:
    """The reuse step by hand: forward hooks put what one call computed into the next, before every skip."""
    kept: dict[nn.Module, Any] = {}
    cut = [m for m in model.denoiser.modules() if isinstance(m, ResnetBlock2D)]
    transformers = [m for m in model.denoiser.modules() if isinstance(m, Transformer2DModel)]
    inside = {m for transformer in transformers for m in transformer.modules()}
    alone = [m for m in model.denoiser.modules() if isinstance(m, Attention) and m not in inside]

    def keep_conv(module: nn.Module, _: Any, output: Tensor) -> Any:
        return kept.setdefault(module, output)

    def keep_branch(module: nn.Module, arguments: Any, kwargs: Any, _: Any) -> Any:
        x = arguments[0] if arguments else kwargs["hidden_states"]
        if module not in kept:
            h = module.norm(x)
            h = module.proj_in(h).permute(0, 2, 3, 1).flatten(1, 2)
            for block in module.transformer_blocks:
                h = block(h, encoder_hidden_states=kwargs["encoder_hidden_states"])
            h = h.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2).contiguous()
            kept[module] = module.proj_out(h)
        return (kept[module] + x,)

    def keep_attention(module: Any, arguments: Any, kwargs: Any, _: Any) -> Any:
        x = arguments[0]
        if module not in kept:
            h = module.group_norm(x.flatten(2)).transpose(1, 2)
            q, k, v = (p(h).unflatten(-1, (module.heads, -1)).transpose(1, 2) for p in qkv(module))
            h = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            kept[module] = module.to_out[0](h).transpose(1, 2).unflatten(2, x.shape[2:])
        return (kept[module] + x) / module.rescale_output_factor

    hooks = [m.conv1.register_forward_hook(keep_conv) for m in cut]
    hooks += [m.register_forward_hook(keep_branch, with_kwargs=True) for m in transformers]
    hooks += [m.register_forward_hook(keep_attention, with_kwargs=True) for m in alone]
    model.predict(first.x, first.t, first.cond)
    output = model.predict(second.x, second.t, second.cond)
    for hook in hooks:
        hook.remove()
    return output


def qkv(module: Any) -> tuple[nn.Module, ...]:
    return module.to_q, module.to_k, module.to_v


@pytest.mark.parametrize("kind", ["unet", "class", "text"])
def test_a_reuse_step_is_the_network_with_stored_branches(kind: str) -> None:
    build, given = MODELS[kind]
    model = build()
    first, second = calls_of(model, sampler(), given=given)[1:3]
    reuser, run = by_hand(model, [FULL, REUSE, REUSE])
    with torch.no_grad():
        keyframe = reuser(model.predict, first.x, first.t, first.cond)
        run.advance()
        reused = reuser(model.predict, second.x, second.t, second.cond)
        assert torch.equal(reused, substituted(model, first, second))
        run.advance()
        later_only = reuser(model.predict, first.x, second.t, first.cond)
    assert not torch.equal(later_only, keyframe), "the time conditioning is alive"
    assert not torch.equal(later_only, reused), "the skip path is alive"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_jumps_alone_are_ddim_with_fewer_steps(dtype: torch.dtype) -> None:
    model = tiny.unconditional_model()
    model.denoiser.to(dtype)

    def draw(steps: int, stride: int, plan: list[Step] | None) -> Tensor:
        scheduler = tiny.scheduler()
        scheduler.alphas_cumprod = scheduler.alphas_cumprod.to(dtype)
        scheduler.set_timesteps(steps)
        timesteps = scheduler.timesteps[::stride]
        scheduler.num_inference_steps = steps // stride
        reuser, run = by_hand(model, plan or [FULL] * len(timesteps))
        x = torch.randn(2, 1, 8, 8, dtype=dtype, generator=torch.Generator().manual_seed(0))
        for t in timesteps:
            x = scheduler.step(reuser(model.predict, x, t.expand(2), {}), t, x).prev_sample
            run.advance()
        return x

    with torch.no_grad():
        jumping = draw(10, 1, frdiff(interval=2, mixing="const", bias=0)._plan(model.denoiser, 10, 1))
        fewer = draw(10, 2, None)
    error = (jumping - fewer).abs().max()
    assert error < 1e-12 if dtype == torch.float64 else error / fewer.abs().max() < 1e-4


def test_guidance_in_one_batch_and_in_two_calls_agree() -> None:
    model = tiny.class_model()
    plan = frdiff()._plan(model.denoiser, 8, 1)
    both, one = by_hand(model, plan), by_hand(model, plan)
    x, scheduler = torch.randn(2, 1, 8, 8), tiny.scheduler()
    scheduler.set_timesteps(8)
    labels, nothing = torch.tensor([0, 1]), torch.tensor([3, 3])
    xs = [x, x]
    for t in scheduler.timesteps:
        cond = {"class_labels": torch.cat([labels, nothing])}
        batched = both[0](model.predict, torch.cat([xs[0]] * 2), t.expand(4), cond).chunk(2)
        apart = [one[0](model.predict, xs[1], t.expand(2), {"class_labels": label}) for label in (labels, nothing)]
        for i, (with_label, without) in enumerate((batched, apart)):
            xs[i] = scheduler.step(without + 2 * (with_label - without), t, xs[i]).prev_sample
        both[1].advance(), one[1].advance()
    assert (xs[0] - xs[1]).abs().max() / xs[0].abs().max() < 1e-5
    assert one[0].tally.forced == 0
    assert one[0].tally.full == 2 * both[0].tally.full


@pytest.mark.parametrize("kind", MODELS)
def test_an_image_does_not_depend_on_its_batch(kind: str) -> None:
    build, given = MODELS[kind]
    model = with_method(build(), frdiff())
    conditions = None if given is None else [given[0]] * 4
    labels = [1, 2, 0, 1] if model.conditioning == "class" else conditions
    together = model.generate([1, 2, 3, 4], labels, sampler())
    alone = model.generate([3], None if labels is None else labels[2:3], sampler())
    assert torch.allclose(together[2], alone[0], atol=1e-5)


def test_a_reuse_call_runs_only_what_depends_on_time_and_skips() -> None:
    model = tiny.unconditional_model()
    x, t = torch.randn(1, 1, 8, 8), torch.tensor([5])
    reuser, run = by_hand(model, [FULL, REUSE])
    counts: dict[str, int] = {}

    def count(name: str) -> Any:
        def hook(*_: Any) -> None:
            counts[name] = counts.get(name, 0) + 1

        return hook

    reuser(model.predict, x, t, {})
    run.advance()
    hooks = [module.register_forward_hook(count(name)) for name, module in model.denoiser.named_modules()]
    reuser(model.predict, x, t, {})
    for hook in hooks:
        hook.remove()
    for name, module in model.denoiser.named_modules():
        expected = _live(name, module)
        if expected is not None:
            assert counts.get(name, 0) == expected, name


def _live(name: str, module: nn.Module) -> int | None:
    """How often a module runs in a reuse call; None for containers and activations."""
    leaf = name.rsplit(".", 1)[-1]
    if isinstance(module, nn.SiLU | nn.ModuleList) or not name:
        return None
    dead = leaf in ("conv1", "norm1") or ("attentions" in name and leaf != "attentions")
    return 0 if dead else 1


PUBLISHED: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "cifar": (reusing.cifar_unet, (3, 32), {}),
    "ldm4": (reusing.ldm4_unet, (3, 64), reusing.meta_context(1, 512)),
    "sd": (reusing.sd_unet, (4, 64), reusing.meta_context(77, 768)),
}


@cache
def full_and_reuse(name: str) -> Any:
    """The counters of a keyframe and of a call that reuses it."""
    network, inputs, cond = PUBLISHED[name]
    return reusing.macs_per_call(network(), frdiff(mixing="off"), 2, reusing.meta_inputs(*inputs), cond)


@pytest.mark.parametrize(
    ("name", "found", "full", "reuse"),
    [
        ("cifar", (22, 6), 6.222, 2.902),
        pytest.param("ldm4", (22, 16), 104.227, 35.666, marks=pytest.mark.slow),  # of the same blocks as sd
        ("sd", (22, 16), 401.637, 109.174),
    ],
)
def test_a_call_costs_what_is_published(name: str, found: tuple[int, int], full: float, reuse: float) -> None:
    kinds = [cut.kind for cut in frdiff()._cuts(PUBLISHED[name][0]())]
    assert (kinds.count("resnet"), kinds.count("attention")) == found
    assert [c.macs / 1e9 for c in full_and_reuse(name)] == pytest.approx([full, reuse], rel=5e-3)


def test_the_cifar_unet_without_attention_products_costs_what_is_published() -> None:
    counters = reusing.macs_per_call(reusing.cifar_unet(), frdiff(attentions=False), 1, reusing.meta_inputs(3, 32), {})
    assert (counters[0].macs - tiny.macs_of(counters[0], "matmul")) / 1e9 == pytest.approx(6.054, rel=5e-3)


@pytest.mark.parametrize(
    ("mlps", "live"), [pytest.param(False, 76.34, marks=pytest.mark.slow), (True, 0.0928)]
)  # 0.241 in the paper, which computes adaLN rows that nobody reads
def test_dit_with_its_attention_and_mlps_reused_costs_what_is_published(mlps: bool, live: float) -> None:
    denoiser = reusing.dit_xl()
    cond = {"class_labels": torch.zeros(1, dtype=torch.long, device=reusing.META)}
    method = frdiff(mlps=mlps, mixing="off")
    full, reused = reusing.macs_per_call(denoiser, method, 2, reusing.meta_inputs(4, 32), cond)
    one = sum(cost.macs for name, cost in full.layers.items() if "timestep_embedder" in name) // 28
    extra = 27 * one  # diffusers embeds the time step afresh in every block
    assert (full.macs - extra) / 1e9 == pytest.approx(118.62, rel=5e-4)
    assert (reused.macs - extra) / 1e9 == pytest.approx(live, rel=5e-3)
    assert len(method._cuts(denoiser)) == (56 if mlps else 28)


LONG = [pytest.param(100, 3, marks=pytest.mark.slow), pytest.param(250, 20, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("steps", "interval"), [(50, 2), (25, 20), *LONG])
def test_the_average_cost_is_the_census_times_the_cost_of_a_call(steps: int, interval: int) -> None:
    model = tiny.unconditional_model()
    method = frdiff(interval=interval)
    plan = method._plan(model.denoiser, steps, 1)
    keys, jumps = sum(step.full for step in plan), sum(step.jump for step in plan)
    student = with_method(model, method)
    with counting(student.denoiser) as counter:
        student.generate([1], None, sampler(steps=steps))
    with counting(model.denoiser) as plain:
        model.generate([1], None, sampler(steps=1))
    pure = with_method(model, frdiff(interval=2, mixing="off"))
    with counting(pure.denoiser) as pair:
        pure.generate([1], None, sampler(steps=2))
    full, reuse = plain.macs, pair.macs - plain.macs
    assert counter.macs == keys * full + (steps - keys - jumps) * reuse
    tally = installed(student, "frdiff").tally
    assert (tally.full, tally.jump, tally.reuse) == (keys, jumps, steps - keys - jumps)


def test_stable_diffusion_at_fifty_steps_costs_the_published_average() -> None:
    full, reuse = full_and_reuse("sd")
    plan = frdiff()._plan(reusing.sd_unet(), 50, 38)
    keys, calls = sum(step.full for step in plan), sum(not step.full and not step.jump for step in plan)
    assert (keys * full.macs + calls * reuse.macs) / 50e9 == pytest.approx(231.4, rel=1e-3)
    without = [c.macs - tiny.macs_of(c, "matmul") for c in (full, reuse)]
    assert (keys * without[0] + calls * without[1]) / 50e9 == pytest.approx(199.9, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "mebibytes"), [("cifar", 5.4), pytest.param("ldm4", 38.7, marks=pytest.mark.slow), ("sd", 90.0)]
)
def test_what_is_kept_takes_the_published_memory(name: str, mebibytes: float) -> None:
    network, inputs, cond = PUBLISHED[name]
    denoiser = network()
    x, t = reusing.meta_inputs(*inputs)
    stand = type("Stand", (), {"denoiser": denoiser, "pipeline": None})()
    reuser, _ = by_hand(stand, [FULL, REUSE])
    with torch.no_grad():
        reuser(lambda x, t, cond: denoiser(x, t, **cond, return_dict=False)[0], x, t, cond)
    assert size_bytes(reuser._contexts[0].features) / 2**20 == pytest.approx(mebibytes, rel=0.1)


def test_the_peak_of_a_run_grows_by_what_is_kept_and_nothing_stays() -> None:
    model = tiny.unconditional_model()
    student = with_method(model, frdiff(mixing="off"))
    reuser, _ = by_hand(model, [FULL, REUSE])
    x = torch.randn(4, 1, 8, 8)
    reuser(model.predict, x, torch.zeros(4), {})
    kept = size_bytes(reuser._contexts[0].features)
    peaks = []
    for candidate in (model, student):
        with peak_memory("cpu", candidate.denoiser) as peak:
            candidate.generate([1, 2, 3, 4], None, sampler())
        peaks.append(peak.bytes)
    assert 0 < peaks[1] - peaks[0] <= 1.1 * kept


def test_a_run_leaves_no_tensor_and_no_trace_behind() -> None:
    model = tiny.unconditional_model()
    plain = model.generate([1], None, sampler())
    modules = {name: id(module) for name, module in model.denoiser.named_modules()}
    keys = list(model.denoiser.state_dict())
    frdiff().prepare(model)
    cells: list[weakref.ref[Cell]] = []
    reuse = installed(model, "frdiff")
    find = reuse.find

    def watched(denoiser: nn.Module) -> Any:
        cuts = find(denoiser)
        cells.extend(weakref.ref(cut.cell) for cut in cuts)
        return cuts

    object.__setattr__(reuse, "find", watched)
    assert not torch.equal(model.generate([1], None, sampler()), plain)
    gc.collect()
    assert cells
    assert all(cell() is None for cell in cells)
    model.wrapper_factories.clear()
    assert torch.equal(model.generate([1], None, sampler()), plain)
    assert {name: id(module) for name, module in model.denoiser.named_modules()} == modules
    assert list(model.denoiser.state_dict()) == keys


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_refreshes_as_often_as_asked(solver: str) -> None:
    model = with_method(few_levels(), frdiff(interval=3, mixing="off"))
    images = model.generate([1], None, sampler(solver, steps=9))
    tally = installed(model, "frdiff").tally
    second_order = "KDPM2" in solver or solver in ("HeunDiscreteScheduler", "DPMSolverSDEScheduler")
    calls = 18 if solver == "PNDMScheduler" else 17 if second_order else 9
    refreshes = {18: 6, 17: 6, 9: 3}[calls]  # PNDM starts with Runge-Kutta; a second-order step is two calls
    assert (tally.full, tally.reuse, tally.forced) == (refreshes, calls - refreshes, 0)
    assert images.isfinite().all()


def test_both_calls_of_a_second_order_step_share_its_decision() -> None:
    model = with_method(tiny.unconditional_model(), frdiff(interval=2, mixing="const", bias=0))
    steps = [call.step for call in calls_of(model, sampler("HeunDiscreteScheduler", steps=6), (1,))]
    assert steps == [0, 1, 4, 5, 8, 9]


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_jumps_hold_the_noise_whatever_is_predicted(kind: str) -> None:
    """Constant noise under DDIM is one larger step, so a run that jumps equals the one that never asks again."""
    model = tiny.unconditional_model()
    scheduler = tiny.scheduler(prediction_type=kind)
    scheduler.set_timesteps(6)
    reuser, run = by_hand(model, [FULL] + [Step(frozenset(), 0.0)] * 5)
    run.scheduler = scheduler
    x = torch.randn(1, 1, 8, 8)
    noises = []
    for t in scheduler.timesteps:
        output = reuser(model.predict, x, t.expand(1), {})
        result = scheduler.step(output, t, x)
        alpha = scheduler.alphas_cumprod[t]
        noises.append((x - alpha.sqrt() * result.pred_original_sample) / (1 - alpha).sqrt())
        x = result.prev_sample
        run.advance()
    assert all(torch.allclose(noise, noises[0], atol=1e-3) for noise in noises[:-1])
    assert reuser.tally.jump == 5


def test_a_run_starts_fresh_after_another_one_and_after_an_exception() -> None:
    model = with_method(tiny.unconditional_model(), frdiff())
    first = model.generate([1], None, sampler())
    model.generate([5, 6, 7], None, sampler(steps=4))
    assert torch.equal(model.generate([1], None, sampler()), first)

    def fail(call: Any, _: Tensor) -> None:
        if call.step == 4:
            raise ArithmeticError("injected")

    with pytest.raises(ArithmeticError), observing(model, fail):
        model.generate([1], None, sampler())
    assert torch.equal(model.generate([1], None, sampler()), first)


def test_a_change_of_shape_or_prompt_inside_a_run_forces_a_full_call() -> None:
    model = tiny.class_model()
    reuser, run = by_hand(model, [FULL, REUSE, REUSE, REUSE])
    x, t, labels = torch.randn(2, 1, 8, 8), torch.tensor([5, 5]), torch.tensor([0, 1])
    reuser(model.predict, x, t, {"class_labels": labels})
    for changed in (
        (x[:1], t[:1], {"class_labels": labels[:1]}),
        (x, t, {"class_labels": labels + 1}),
        (torch.randn(2, 1, 16, 16), t, {"class_labels": labels}),
    ):
        run.advance()
        assert torch.equal(reuser(model.predict, *changed), model.predict(*changed))
    assert (reuser.tally.forced, reuser.tally.reuse) == (3, 0)


def test_batch_and_dtype_may_change_between_runs() -> None:
    model = with_method(tiny.unconditional_model(), frdiff())
    one = model.generate([1], None, sampler())
    four = model.generate([1, 2, 3, 4], None, sampler())
    assert torch.allclose(four[:1], one, atol=1e-5)
    model.denoiser.to(torch.float64)
    fresh = with_method(tiny.unconditional_model(), frdiff())
    fresh.denoiser.to(torch.float64)
    assert torch.equal(model.generate([1], None, sampler()), fresh.generate([1], None, sampler()))


def test_a_model_that_is_already_sampling_says_so() -> None:
    model = with_method(tiny.unconditional_model(), frdiff())
    with (
        pytest.raises(RuntimeError, match="already sampling"),
        observing(model, lambda *_: model.generate([2], None, sampler())),
    ):
        model.generate([1], None, sampler())
    assert model.generate([1], None, sampler()).isfinite().all()


def test_two_models_interleaved_do_not_meet() -> None:
    first = with_method(tiny.unconditional_model(), frdiff())
    second = first.copy()
    expected = first.generate([1], None, sampler()), second.generate([2], None, sampler(steps=4))
    inside: list[Tensor] = []

    def between(call: Any, _: Tensor) -> None:
        if call.step == 4:
            inside.append(second.generate([2], None, sampler(steps=4)))

    with observing(first, between):
        outside = first.generate([1], None, sampler())
    assert torch.equal(outside, expected[0])
    assert torch.equal(inside[0], expected[1])


def _parts(pipeline: Any) -> dict[str, Any]:
    return {name: getattr(pipeline, name) for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")}


UNCHECKED = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


@pytest.mark.parametrize(("strength", "executed"), [(0.3, 3), (0.8, 8)])
def test_image_to_image_counts_the_steps_that_it_executes(strength: float, executed: int) -> None:
    pipeline = StableDiffusionImg2ImgPipeline(**_parts(tiny.text_model().pipeline), **UNCHECKED)
    image = torch.rand(1, 3, 16, 16)
    model = DiffusionModel(pipeline, name="img2img", options={"image": image, "strength": strength})
    frdiff(mixing="off").prepare(model)
    model.generate([1], ["a"], sampler(steps=10))
    tally = installed(model, "frdiff").tally
    assert (tally.full, tally.reuse) == (-(-executed // 2), executed // 2)


@pytest.mark.parametrize(
    "solver", ["DDPMScheduler", "EulerAncestralDiscreteScheduler", "KDPM2AncestralDiscreteScheduler"]
)
def test_the_noise_drawn_is_the_baselines(solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from parediff.models.diffusion import pipeline as diffusion

    states = []
    plain = diffusion.generators_for

    def spy(seeds: Any) -> Any:
        states.append(plain(seeds))
        return states[-1]

    monkeypatch.setattr(diffusion, "generators_for", spy)
    model = few_levels()
    student = with_method(model, frdiff(interval=3))
    for candidate in (model, student):
        candidate.generate([1, 2], None, sampler(solver))
    for before, after in zip(*states, strict=True):
        assert torch.equal(before.get_state(), after.get_state())


def test_inpainting_counts_the_steps_that_it_executes() -> None:
    text = tiny.text_model().pipeline
    pipeline = StableDiffusionInpaintPipeline(**_parts(text), **UNCHECKED)
    options = {"image": torch.rand(1, 3, 16, 16), "mask_image": torch.ones(1, 1, 16, 16), "strength": 0.7}
    model = DiffusionModel(pipeline, name="inpaint", options=options | {"height": 16, "width": 16})
    plain = model.generate([1], ["a"], sampler(steps=10))
    student = with_method(model, frdiff(mixing="off"))
    assert not torch.equal(student.generate([1], ["a"], sampler(steps=10)), plain)
    tally = installed(student, "frdiff").tally
    assert (tally.full, tally.reuse) == (4, 3)


@pytest.mark.parametrize(("end", "executed"), [(0.5, 5), (0.8, 8)])
def test_denoising_that_ends_early_counts_the_steps_that_it_executes(end: float, executed: int) -> None:
    model = tiny.xl_model({"denoising_end": end})
    student = with_method(model, frdiff(mixing="off", interval=3))
    assert len(calls_of(student, sampler(steps=10), (1,), ["a"])) == executed
    tally = installed(student, "frdiff").tally
    assert (tally.full, tally.reuse) == (-(-executed // 3), executed - -(-executed // 3))


def test_explicit_attention_and_slicing_keep_keyframes_exact() -> None:
    for change in (
        lambda model: explicit_attention(model.denoiser),
        lambda model: model.pipeline.enable_attention_slicing(1),
        lambda model: model.pipeline.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4),
        lambda model: model.pipeline.vae.enable_tiling(),
    ):
        model = tiny.text_model(2.0)
        change(model)
        student = with_method(model, frdiff(interval=1))
        few = sampler(steps=3)
        assert torch.equal(student.generate([1], ["a"], few), model.generate([1], ["a"], few))
        assert with_method(model, frdiff()).generate([1], ["a"], few).isfinite().all()


def _lora(denoiser: Any) -> None:
    from peft import LoraConfig

    torch.manual_seed(3)
    config = LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=["to_q", "to_v", "conv1"])
    denoiser.add_adapter(config)


def test_an_adapter_may_come_and_go_between_runs() -> None:
    """Keyframes stay exact with LoRA in the denoiser, reuse runs, and the run after its removal is as fresh."""
    model = tiny.text_model(2.0)
    student = with_method(model, frdiff(interval=1))
    reusing = with_method(model, frdiff())
    before = reusing.generate([1], ["a"], sampler())
    for one in (model, student, reusing):
        _lora(one.denoiser)
    adapted = model.generate([1], ["a"], sampler())
    assert torch.equal(student.generate([1], ["a"], sampler()), adapted)
    assert not torch.allclose(reusing.generate([1], ["a"], sampler()), before, atol=1e-4)
    reusing.denoiser.delete_adapters("default")
    assert torch.equal(reusing.generate([1], ["a"], sampler()), before)


@pytest.mark.parametrize("offload", ["cpu_offload", "cpu_offload_with_hook"])
def test_offloading_hooks_change_nothing(offload: str) -> None:
    """accelerate's hooks around every layer (sequential) and around the whole denoiser, all on the CPU."""
    import accelerate

    model = tiny.text_model(2.0)
    plain = {interval: with_method(model, frdiff(interval=interval)) for interval in (1, 2)}
    expected = {interval: one.generate([1], ["a"], sampler(steps=4)) for interval, one in plain.items()}
    for interval, one in plain.items():
        getattr(accelerate, offload)(one.denoiser, torch.device("cpu"))
        assert torch.equal(one.generate([1], ["a"], sampler(steps=4)), expected[interval])


def test_a_brownian_path_belongs_to_the_image() -> None:
    """DPM++ SDE owns its noise; image i must still depend on seed i only."""
    model = tiny.unconditional_model()
    together = model.generate([1, 2], None, sampler("DPMSolverSDEScheduler"))
    alone = model.generate([2], None, sampler("DPMSolverSDEScheduler"))
    assert torch.allclose(together[1:], alone, atol=1e-5)
    assert not torch.allclose(together[:1], together[1:], atol=1e-2)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"interval": 0}, "interval"),
        ({"keyframes": (1, 3)}, "keyframes"),
        ({"temperature": 0}, "temperature"),
        ({"mixing": "soft"}, "mixing"),
        ({"interval": 2.5}, "interval"),
    ],
)
def test_wrong_hyper_parameters_are_named(options: dict, key: str) -> None:
    with pytest.raises(RequestError) as error:
        frdiff(**options)
    assert error.value.key == key


def test_keyframes_beyond_the_run_are_refused_before_any_call() -> None:
    model = with_method(tiny.unconditional_model(), frdiff(keyframes=(0, 9)))
    with pytest.raises(RequestError, match="below the 6 steps"):
        model.generate([1], None, sampler())


@pytest.mark.slow
def test_on_the_digits_model_a_longer_interval_costs_less_and_strays_further() -> None:
    model = PretrainedPipeline(name="ddpm_digits", path="assets://ddpm_digits").load("cpu")
    ddim = Sampler(name="ddim", scheduler="DDIMScheduler", steps=20)
    seeds = range(12)
    plain = model.generate(seeds, None, ddim)
    for mixing in ("hard", "off"):
        errors, costs = [], []
        for interval in (1, 2, 3, 5):
            student = with_method(model, frdiff(interval=interval, mixing=mixing))
            with counting(student.denoiser) as counter:
                errors.append(float((student.generate(seeds, None, ddim) - plain).square().mean()))
            costs.append(counter.macs)
        assert errors[0] == 0
        assert errors == sorted(errors)
        assert costs == sorted(costs, reverse=True)
