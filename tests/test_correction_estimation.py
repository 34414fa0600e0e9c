"""Run-time estimation: what it measures, when, at what cost, under every scheduler, guidance and reuse of features."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

import tiny
from parediff.correction.bias import BiasEstimate
from parediff.correction.estimation import Estimation, Estimator, Schedule, check_scheduler
from parediff.correction.renoising import ProbeNoise, falls, renoised, signal_levels, stepped
from parediff.errors import RequestError
from parediff.methods.frdiff import FRDiff
from parediff.methods.qncd import Qncd
from parediff.models.diffusion.door import Condition, Predict, Run, observing, recording
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.pipeline.compress import compress

SAMPLERS = [
    ("ddim", "DDIMScheduler", 0.0, {}),
    ("ddim_eta", "DDIMScheduler", 1.0, {}),
    ("ddpm", "DDPMScheduler", 0.0, {}),
    ("dpmpp_2m", "DPMSolverMultistepScheduler", 0.0, {}),
    ("pndm", "PNDMScheduler", 0.0, {"skip_prk_steps": True}),
    ("heun", "HeunDiscreteScheduler", 0.0, {}),
    ("euler", "EulerDiscreteScheduler", 0.0, {}),
    ("euler_ancestral", "EulerAncestralDiscreteScheduler", 0.0, {}),
    ("unipc", "UniPCMultistepScheduler", 0.0, {}),
]


def sampler(name: str = "ddim", steps: int = 50) -> Sampler:
    found = next(entry for entry in SAMPLERS if entry[0] == name)
    return Sampler(name, found[1], steps, found[2], found[3])


def qncd(**changes: object) -> Qncd:
    """Estimation alone, every 10 steps, without safeguards."""
    fields: dict[str, object] = {
        "smoothing": False,
        "smoothing_strength": 1.0,
        "estimate_every": 10,
        "start": 0.0,
        "granularity": "sample",
        "gate": 0.0,
        "shrink": False,
    }
    return Qncd(**(fields | changes))  # type: ignore[arg-type]


def frdiff() -> FRDiff:
    return FRDiff(
        interval=2,
        keyframes="uniform",
        center=15,
        power=1.4,
        first_full=1,
        last_full=0,
        mixing="hard",
        temperature=30,
        bias=0.5,
        resnets=True,
        attentions=True,
        mlps=False,
        blocks="parts",
    )


def applied(model: DiffusionModel, *methods: object) -> DiffusionModel:
    named = {type(method).__name__.lower(): method for method in methods}
    compress(model, model.copy(), named, lambda _: [], lambda _, __: None)  # type: ignore[arg-type]
    return model


def estimation_of(model: DiffusionModel) -> Estimation:
    return next(factory for factory in model.wrapper_factories if isinstance(factory, Estimation))


def exact(run: Run, shift: float = 0.0) -> Predict:
    """The ideal denoiser of images that are white noise of variance 1/4, plus a constant error."""

    def predict(x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        alphas = run.scheduler.alphas_cumprod.to(x.dtype)[t.long()].view(-1, 1, 1, 1)
        run.evaluations += 1
        return (1 - alphas).sqrt() * x / (alphas / 4 + 1 - alphas) + shift

    return predict


@cache
def estimates_along(shift: float, estimate: BiasEstimate, size: int = 32) -> list[Tensor]:
    """q at steps 6, 16, 26, 36, 46 on the trajectory of the ideal denoiser."""
    model = tiny.unconditional_model()
    seeds = tuple(range(16))
    scheduler = sampler().scheduler_for(model.pipeline)
    scheduler.set_timesteps(50)
    run = Run(scheduler, seeds, [], model)
    x = torch.randn(len(seeds), 1, size, size, dtype=torch.float64)
    found = []
    for t in scheduler.timesteps:
        if Schedule(10).due(run.index, 50) == run.index:
            estimator = Estimator(Estimation(Schedule(10), estimate), run)
            estimator(exact(run, shift), x, t.expand(len(x)), {})
            found.append(estimator._bias[0])
        x = scheduler.step(exact(run)(x, t.expand(len(x)), {}), t, x).prev_sample
        run.advance()
    return found


def latent(model: DiffusionModel, seeds: list[int], conditions: object, using: Sampler) -> Tensor:
    """What the network sees at the last step: unlike an image, it saturates nowhere."""
    with recording(model) as calls:
        model.generate(seeds, conditions, using)  # type: ignore[arg-type]
    return next(call.x for call in calls if call.step == calls[-1].step)


PLAIN = BiasEstimate("scalar", gate=0.0, shrink=False)


def test_q7_an_exact_network_has_no_bias() -> None:
    estimates = estimates_along(0.0, PLAIN)
    assert len(estimates) == 5
    assert all(abs(float(q)) < 5 / (16 * 32 * 32) ** 0.5 for q in estimates)


def test_q8_a_constant_bias_on_an_exact_trajectory_is_measured() -> None:
    assert all(abs(float(q) - 0.05) < 5 / (16 * 32 * 32) ** 0.5 for q in estimates_along(0.05, PLAIN))
    assert abs(float(estimates_along(0.2, PLAIN)[-1]) - 0.2) < 5 / (16 * 32 * 32) ** 0.5


def test_the_response_to_its_own_bias_makes_an_estimate_smaller_in_the_noisy_half() -> None:
    """The step to x_prev is taken with the biased prediction; the specification's limit of the estimator, 2.1."""
    q = [float(q) for q in estimates_along(0.2, PLAIN)]
    assert q[0] < q[-1]


def test_q8_per_channel_and_per_sample_measure_it_too() -> None:
    channel = estimates_along(0.2, BiasEstimate("channel", 0.0, False))[-1]
    sample = estimates_along(0.2, BiasEstimate("sample", 0.0, False))[-1]
    assert channel.shape == (1, 1, 1, 1)
    assert sample.shape == (16, 1, 1, 1)
    assert float((sample - 0.2).abs().max()) < 5 / 32


def test_q9_ten_steps_between_five_estimates_of_fifty() -> None:
    model = applied(tiny.unconditional_model(), qncd())
    with recording(model) as calls:
        model.generate([1, 2], None, sampler())
    extra = [call.step for before, call in pairwise(calls) if call.step == before.step]
    assert extra == [6, 16, 26, 36, 46]
    assert len(calls) == 55
    assert estimation_of(model).tally.taken == 5


def test_q10_coefficients_of_renoising() -> None:
    model = tiny.unconditional_model()
    scheduler = sampler().scheduler_for(model.pipeline)
    scheduler.set_timesteps(50)
    run = Run(scheduler, (0,), [], model)
    image = 0.5 * torch.randn(1, 1, 400, 400, dtype=torch.float64)
    for index in range(0, 50, 7):
        run.index, t = index, scheduler.timesteps[index]
        levels = signal_levels(run, t.expand(1), image)
        assert falls(levels)
        alpha, alpha_prev = (float(level) for level in levels)
        x_prev = alpha_prev * image + (1 - alpha_prev**2) ** 0.5 * torch.randn_like(image)
        back = renoised(x_prev, torch.randn_like(image), levels)
        assert float(back.var()) == pytest.approx(alpha**2 * 0.25 + 1 - alpha**2, rel=0.01)


def test_the_closed_form_step_is_ddims() -> None:
    model = tiny.unconditional_model()
    scheduler = sampler().scheduler_for(model.pipeline)
    scheduler.set_timesteps(50)
    run = Run(scheduler, (0,), [], model, index=20)
    x, noise, t = torch.randn(1, 1, 8, 8), torch.randn(1, 1, 8, 8), scheduler.timesteps[20]
    levels = signal_levels(run, t.expand(1), x)
    expected = scheduler.step(noise, t, x).prev_sample
    assert torch.allclose(stepped(x.double(), noise.double(), levels, None).float(), expected, atol=1e-5)


def test_q11_an_endless_interval_is_the_uncorrected_sampler() -> None:
    model = tiny.unconditional_model()
    plain = latent(model, [1, 2], None, sampler(steps=10))
    applied(model, qncd(estimate_every=1000))
    assert torch.equal(latent(model, [1, 2], None, sampler(steps=10)), plain)


def test_no_estimation_leaves_the_door_alone() -> None:
    model = tiny.unconditional_model()
    qncd(estimate_every=0, smoothing=True).prepare(model)
    assert not model.wrapper_factories


def test_q12_the_history_holds_the_corrected_prediction() -> None:
    model = applied(tiny.unconditional_model(), qncd(estimate_every=4))
    held: list[tuple[Tensor, Tensor]] = []

    def outermost(run: Run) -> object:
        def wrapper(network: Predict, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
            if run.scheduler.ets:
                held.append((run.scheduler.ets[-1], seen[-1]))
            seen.append(network(x, t, cond))
            return seen[-1]

        seen: list[Tensor] = []
        return wrapper

    model.wrap(outermost)  # type: ignore[arg-type]
    raw: list[Tensor] = []
    with observing(model, lambda call, output: raw.append(output)):
        model.generate([1], None, sampler("pndm", 12))
    compared = [(history, corrected) for history, corrected in held[3:]]
    assert all(torch.equal(history, corrected) for history, corrected in compared)
    assert not all(any(torch.equal(history, output) for output in raw) for history, _ in compared)


@pytest.mark.parametrize("name", [entry[0] for entry in SAMPLERS])
def test_every_scheduler_is_corrected_and_its_own_draws_stay(name: str) -> None:
    model = tiny.unconditional_model()
    plain = latent(model, [1, 2], None, sampler(name, 8))
    gated = applied(model.copy(), qncd(estimate_every=4, gate=1e6))
    assert torch.equal(latent(gated, [1, 2], None, sampler(name, 8)), plain)
    corrected = applied(model.copy(), qncd(estimate_every=4))
    last = latent(corrected, [1, 2], None, sampler(name, 8))
    assert estimation_of(corrected).tally.taken >= 2
    assert torch.isfinite(last).all()
    assert not torch.allclose(last, plain, atol=1e-3)
    assert torch.equal(latent(corrected, [1, 2], None, sampler(name, 8)), last)


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_other_predictions_are_corrected_as_noise(kind: str) -> None:
    model = tiny.unconditional_model()
    model.pipeline.scheduler = tiny.scheduler(prediction_type=kind)
    images = applied(model, qncd(start=0.5)).generate([1, 2], None, sampler(steps=10))
    assert estimation_of(model).tally.taken == 1
    assert torch.isfinite(images).all()


def test_q13_per_sample_estimates_do_not_depend_on_the_batch() -> None:
    model = applied(tiny.unconditional_model(), qncd())
    together = latent(model, [4, 9, 2], None, sampler(steps=10))
    for row, seed in enumerate([4, 9, 2]):
        alone = latent(model, [seed], None, sampler(steps=10))
        assert torch.allclose(alone[0], together[row], rtol=1e-4, atol=1e-4)


def test_q13_scalar_estimates_depend_on_the_batch() -> None:
    model = applied(tiny.unconditional_model(), qncd(granularity="scalar"))
    together = latent(model, [4, 9, 2], None, sampler(steps=10))
    assert not torch.allclose(latent(model, [4], None, sampler(steps=10))[0], together[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("granularity", ["scalar", "channel", "sample"])
def test_guidance_estimates_each_branch_with_the_same_noise(granularity: str) -> None:
    model = applied(tiny.class_model(2.0), qncd(granularity=granularity))
    with recording(model) as calls:
        model.generate([1, 2], [0, 1], sampler(steps=20))
    assert [len(call.x) for call in calls] == [4] * 22
    probe = calls[7]
    assert torch.equal(calls[6].x[:2], calls[6].x[2:])
    assert not torch.equal(probe.x[:2], probe.x[2:])
    noise = ProbeNoise((1, 2)).draw(probe.x)
    assert torch.equal(noise[:2], noise[2:])


def test_guidance_in_two_calls_is_guidance_in_one() -> None:
    model = applied(tiny.class_model(2.0), qncd(granularity="scalar"))
    together = latent(model, [1, 2], [0, 1], sampler(steps=20))[:2]

    def split(run: Run) -> object:
        def wrapper(network: Predict, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
            labels = cond["class_labels"]
            parts = [slice(0, 2), slice(2, 4)]
            return torch.cat([network(x[part], t[part], {"class_labels": labels[part]}) for part in parts])

        return wrapper

    model.wrap(split)  # type: ignore[arg-type]
    apart = latent(model, [1, 2], [0, 1], sampler(steps=20))
    assert torch.allclose(apart, together, rtol=1e-4, atol=1e-4)


def test_text_guidance_and_transformers_are_corrected() -> None:
    text = applied(tiny.text_model(3.0), qncd(estimate_every=4))
    assert torch.isfinite(text.generate([1], ["a cat"], sampler(steps=10))).all()
    transformer = applied(tiny.dit_model(2.0), qncd(estimate_every=4))
    assert torch.isfinite(transformer.generate([1], [5], sampler(steps=10))).all()
    assert estimation_of(text).tally.taken == estimation_of(transformer).tally.taken == 2


def test_a_jumped_step_waits_for_the_next_one_that_runs() -> None:
    model = applied(tiny.unconditional_model(), frdiff(), qncd())
    with recording(model) as calls:
        model.generate([1, 2], None, sampler(steps=30))
    steps = [call.step for call in calls]
    probes = [step for before, step in pairwise(steps) if step == before]
    assert len(probes) == 3
    assert all(step in range(due, due + 2) for step, due in zip(probes, (6, 16, 26), strict=True))


def test_a_probe_leaves_the_reused_features_alone() -> None:
    plain = latent(applied(tiny.unconditional_model(), frdiff()), [1, 2], None, sampler(steps=10))
    gated = applied(tiny.unconditional_model(), frdiff(), qncd(gate=1e6))
    assert torch.equal(latent(gated, [1, 2], None, sampler(steps=10)), plain)


def test_reuse_around_the_estimate_is_refused() -> None:
    with pytest.raises(RequestError, match=r"\[frdiff,qncd\]"):
        applied(tiny.unconditional_model(), qncd(), frdiff())


def test_a_scheduler_without_noise_levels_is_refused() -> None:
    with pytest.raises(RequestError, match="alphas_cumprod"):
        check_scheduler(FlowMatchEulerDiscreteScheduler())


def test_the_start_leaves_the_noisy_part_alone() -> None:
    due = {Schedule(10, start=0.5).due(index, 50) for index in range(50)}
    assert due == {-1, 26, 36, 46}


def test_the_gate_and_the_shrinkage_are_the_formulas() -> None:
    error = torch.full((1, 1, 10, 10), 0.2)
    assert float(BiasEstimate("sample", 3.0, False).of(error, 1)) == 0.0
    assert float(BiasEstimate("sample", 1.5, False).of(error, 1)) == pytest.approx(0.2)
    assert float(BiasEstimate("sample", 0.0, True).of(error, 1)) == pytest.approx(0.2 * (1 - 1 / 4))
    assert float(BiasEstimate("scalar", 0.0, True).of(error / 4, 1)) == 0.0


def test_branches_of_guidance_are_estimated_apart() -> None:
    error = torch.cat([torch.full((2, 3, 4, 4), 0.1), torch.full((2, 3, 4, 4), -0.3)])
    estimate = BiasEstimate("scalar", 0.0, False).of(error, 2)
    assert torch.allclose(estimate.flatten(), torch.tensor([0.1, 0.1, -0.3, -0.3]))


def test_known_noise_is_a_matter_of_the_seed_and_not_the_samplers() -> None:
    x = torch.zeros(2, 1, 4, 4)
    assert torch.equal(ProbeNoise((3, 8)).draw(x)[1], ProbeNoise((8, 5)).draw(x)[0])
    own = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(3))
    assert not torch.equal(ProbeNoise((3, 8)).draw(x)[0], own)


@pytest.mark.parametrize(
    "wrong",
    [{"estimate_every": -1}, {"start": 1.5}, {"gate": -1.0}, {"granularity": "pixel"}, {"smoothing_strength": 0.0}],
)
def test_out_of_range_values_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(RequestError):
        qncd(**wrong)


def test_switching_both_parts_off_is_refused() -> None:
    with pytest.raises(RequestError, match="smoothing is off"):
        qncd(estimate_every=0)
