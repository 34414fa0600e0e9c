"""TDQ's generator, grids, fit, tables and training: T1 to T17 of tdq.md."""

from __future__ import annotations

import copy
import dataclasses
from functools import cache
from pathlib import Path

import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

import tiny
from composing import UNSEARCHED, method_of
from parediff.calibration.base import LazyCalls
from parediff.calibration.uniform import Uniform
from parediff.config.compose import Composer
from parediff.config.request import construct
from parediff.errors import RequestError
from parediff.methods.quantize import Quantize
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.pipeline.compress import compress, restore
from parediff.quantization.arithmetic import fake_quantize
from parediff.quantization.calibrate import input_quantizers, tabulate
from parediff.quantization.generated import Generated, inverse_softplus
from parediff.quantization.generator_fit import GeneratorFit
from parediff.quantization.grid import SILU_MINIMUM, Grid, Kind
from parediff.quantization.intervals import GeneratedInterval
from parediff.quantization.quantizer import Quantizer
from parediff.quantization.samples import Samples
from parediff.quantization.search import SearchSettings
from parediff.quantization.sources import Static
from parediff.quantization.time_context import TimeContext, UnknownStep, embedding_of, time_context_of
from parediff.quantization.time_layers import cache_time_layers

CALIBRATION = Uniform(10**9, 4, 4, 5)
MODELS = {
    "unet": tiny.unconditional_model,
    "class": lambda: tiny.class_model(guidance_scale=2.0),
    "dit": lambda: tiny.dit_model(guidance_scale=2.0),
    "text": lambda: tiny.text_model(guidance_scale=3.0),
}


SMALL = {"values": 2048, "generator.iterations": 10, **UNSEARCHED}
"""What is quantised matters here; how well an interval is searched is tested where the searches are."""
SEARCHED = {"weight_search": "mse", "activation_search": "mse", "search.candidates": 8, "generator.iterations": 40}


def method(**changes: object) -> Quantize:
    return method_of("tdq", SMALL | changes, "sampler.steps=5")


def fitted(model: DiffusionModel, tdq: Quantize, sampler: Sampler = tiny.DDIM) -> dict[str, Tensor]:
    """Compress in place; the state before finalize."""
    return compress(model, model.copy(), {"tdq": tdq}, lambda m: LazyCalls(_source(m), m, sampler), lambda *_: None)


def _source(model: DiffusionModel) -> Uniform:
    if model.conditioning != "text":
        return CALIBRATION
    return Uniform(10**9, 4, 4, 5, conditions=("a cat", "a dog"))


def _draw(model: DiffusionModel, sampler: Sampler = tiny.DDIM) -> Tensor:
    conditions = ["a cat", "a dog"] if model.conditioning == "text" else model.conditions_for((3, 4))
    return model.generate((3, 4), conditions, sampler)


@pytest.fixture(
    scope="module",
    params=["unet", *(pytest.param(name, marks=pytest.mark.slow) for name in ("text", "class", "dit"))],
)
def tabulated(request: pytest.FixtureRequest) -> DiffusionModel:
    return tabulated_model(request.param)[0]


@cache
def tabulated_model(name: str) -> tuple[DiffusionModel, dict[str, Tensor]]:
    """Fitted once, the UNet to what a search finds, with the state before finalize; who changes it takes a copy."""
    model = MODELS[name]()
    return model, fitted(model, method(**(SEARCHED if name == "unet" else {})))


def sources(model: DiffusionModel) -> list[Generated]:
    return [module for module in model.denoiser.modules() if isinstance(module, Generated)]


def with_generators(model: DiffusionModel) -> DiffusionModel:
    """A copy that runs its generators at every call."""
    twin = model.copy()
    for source in sources(twin):
        source.forget()
    return twin


def context(channels: int = 16, *, interpolate: bool = False) -> TimeContext:
    return TimeContext(1000, channels, interpolate=interpolate)


def generator(channels: int = 16, seed: int = 0, kind: Kind = "symmetric") -> Generated:
    seeded = torch.Generator().manual_seed(seed)
    return Generated(context(channels), Grid(4, kind), None, dropout=0.2, generator=seeded).eval()


def test_t1_tabulated_steps_are_the_generated_ones_for_every_layer_and_step(tabulated: DiffusionModel) -> None:
    known = time_context_of(tabulated.denoiser).known
    assert known.tolist() == tabulated.times(tiny.DDIM).tolist()
    twins = sources(with_generators(tabulated))
    assert len(twins) > 5
    for source, running in zip(sources(tabulated), twins, strict=True):
        for place, t in enumerate(known):
            running.context.enter(t.expand(3))
            with torch.no_grad():
                step, zero_point = running(torch.zeros(3, 2))
                assert torch.equal(step, source.table[place].expand(3))
                if source.grid.has_zero_point:
                    assert torch.equal(zero_point, source.zeros[place].expand(3))


def test_t2_sampling_with_the_table_equals_sampling_with_generators(tabulated: DiffusionModel) -> None:
    images = _draw(tabulated)
    assert torch.equal(images, _draw(with_generators(tabulated)))
    assert bool((images - _draw(tabulated)).abs().max() == 0)


def test_t3_with_a_zeroed_last_weight_it_is_static_quantisation() -> None:
    model = tiny.unconditional_model()
    fitted(model, method(recipe="paper"))
    static = model.copy()
    for source in sources(model):
        with torch.no_grad():
            source.last.weight.zero_()
            source.fill(torch.tensor(0.21), None)
        source.tabulate()
        assert torch.allclose(source.table, torch.tensor(0.21), atol=1e-6)
    for quantizer in input_quantizers(static.denoiser).values():
        quantizer.source = Static(None, zero_point=False)
        quantizer.source.fill(torch.tensor(0.21), None)
    assert torch.allclose(_draw(model), _draw(static), atol=1e-6)


def test_t4_softplus_is_inverted_from_tiny_to_large_steps() -> None:
    steps = torch.logspace(-6, 2, 200, dtype=torch.float64)
    assert torch.allclose(nn.functional.softplus(inverse_softplus(steps)), steps, rtol=1e-5)
    source = generator()
    with torch.no_grad():
        source.last.weight.zero_()
    for step in (1e-6, 1e-3, 1.0, 100.0):
        source.fill(torch.tensor(step), None)
        assert float(source.at(torch.tensor([5.0]))[0]) == pytest.approx(step, rel=1e-5)


@pytest.mark.parametrize("together", [2, 3, 7, 25, 101])
def test_an_interval_does_not_depend_on_which_others_are_computed_with_it(together: int) -> None:
    source, t = generator(kind="affine"), torch.linspace(0, 999, 101)
    whole = source.at(t)
    for place, found in enumerate(whole):
        parts = torch.cat([source.at(t[start : start + together])[place] for start in range(0, 101, together)])
        assert torch.equal(found, parts)


@pytest.mark.parametrize("kind", ["symmetric", "affine"])
@pytest.mark.parametrize("seed", range(3))
def test_t5_steps_are_positive_for_every_time_step(seed: int, kind: Kind) -> None:
    source = generator(seed=seed, kind=kind)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.copy_(3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
        steps, _ = source.interval_of(source.reach(embedding_of(torch.arange(1000), 16)))
    assert bool((steps > 0).all())


def test_t6_a_sample_does_not_depend_on_the_other_time_steps_in_its_batch() -> None:
    source = generator()
    quantizer = Quantizer(Grid(4), source=source)
    quantizer.fill(torch.tensor(0.3))
    x, t = torch.randn(5, 2, 4, 4), torch.tensor([0, 999, 10, 10, 500])
    with torch.no_grad():
        source.context.enter(t)
        together = quantizer(x)
        for row in range(5):
            source.context.enter(t[row : row + 1])
            assert torch.equal(quantizer(x[row : row + 1])[0], together[row])


def test_t7_the_steps_gradient_is_the_hand_formula() -> None:
    """One element inside (r(v) - v), one clipped high (N), one clipped low (-N), through softplus: sigmoid(c4)."""
    source = generator()
    with torch.no_grad():
        source.last.weight.zero_()
    quantizer = Quantizer(Grid(4, "narrow"), source=source)
    quantizer.fill(torch.tensor(0.5))
    source.context.enter(torch.tensor([7]))
    x, upstream = torch.tensor([[0.6, 100.0, -100.0]]), torch.tensor([[2.0, 3.0, 5.0]])
    (quantizer(x) * upstream).sum().backward()
    by_hand = 2.0 * (1 - 1.2) + 3.0 * 6 + 5.0 * -6
    slope = torch.sigmoid(source.last.bias.detach())
    assert float(source.last.bias.grad) == pytest.approx(by_hand * float(slope), abs=1e-5)


SEARCH = SearchSettings(candidates=20).named("mse")


def spreading(steps: int = 100, *, width: int = 32768, centre: float = 0.0) -> tuple[Tensor, Samples]:
    """Time steps, and A(t) ~ N(centre sigma(t), sigma(t)^2), sigma(t) = 0.5 + t / 1000."""
    t = torch.linspace(0, 999, steps).round()
    draws = torch.randn(len(t), width, generator=torch.Generator().manual_seed(0)) + centre
    values = draws * sigma(t)[:, None]
    return t, Samples(values, values.amin(1), values.amax(1))


def fit(source: Generated, grid: Grid, t: Tensor, samples: Samples, *, relative: bool = True) -> Quantizer:
    """Absolute errors hardly see the early times, where sigma is small: they need more iterations."""
    source.context.remember(t)
    quantizer = Quantizer(grid, source=source)
    settings = GeneratorFit("fitted", 500 if relative else 1000, 1e-3, relative, 0.2)
    GeneratedInterval(settings, 0).fit({"q": quantizer}, {"q": samples}, SEARCH)
    return quantizer


def sigma(t: Tensor) -> Tensor:
    return 0.5 + t / 1000


@pytest.fixture(
    scope="module", params=[True, pytest.param(False, marks=pytest.mark.slow)], ids=["relative", "absolute"]
)
def fit_to_spread(request: pytest.FixtureRequest) -> tuple[bool, Generated]:
    source = generator(128)
    fit(source, Grid(4), *spreading(), relative=request.param)
    return request.param, source


def test_t8_the_fitted_step_follows_the_spread(fit_to_spread: tuple[bool, Generated]) -> None:
    """At every time step, not at the hundred fitted ones alone."""
    t = torch.arange(1000.0)
    ratio = fit_to_spread[1].at(t)[0] / sigma(t)
    assert torch.allclose(ratio, torch.full_like(ratio, 0.3534), rtol=0.05)
    assert float(ratio.mean()) == pytest.approx(0.3534, rel=0.02)


def test_t9_it_comes_within_five_percent_of_the_best_step_at_each_time(fit_to_spread: tuple[bool, Generated]) -> None:
    relative, source = fit_to_spread
    held_out = torch.randn(100, 5000, generator=torch.Generator().manual_seed(1))
    t = torch.linspace(0, 999, 100).round()
    values, grid = held_out * sigma(t)[:, None], Grid(4)

    def error(steps: Tensor) -> float:
        squares = (fake_quantize(values, steps[:, None], None, grid) - values).square().mean(1)
        return float((squares / sigma(t).square() if relative else squares).mean())

    best_static = min(error(torch.full((100,), step)) for step in torch.linspace(0.3, 0.5, 21).tolist())
    expected_static, expected = (0.02065, 0.012889) if relative else (0.01910, 0.01397)
    assert best_static == pytest.approx(expected_static, rel=0.05)
    assert error(source.at(t)[0]) <= 1.05 * expected


def test_on_an_affine_grid_scale_and_zero_point_follow_the_time() -> None:
    """A(t) ~ N(1.5 sigma(t), sigma(t)^2): within 5 % of the best interval at each time, and the best static is not."""
    grid = Grid(4, "affine")
    t, samples = spreading(50, width=4096, centre=1.5)
    source = generator(128, kind="affine")
    quantizer = fit(source, grid, t, samples)
    held_out = torch.randn(50, 20000, generator=torch.Generator().manual_seed(1)) + 1.5
    values = held_out * sigma(t)[:, None]

    def error(step: Tensor, zero_point: Tensor | None) -> float:
        assert zero_point is not None
        rounded = fake_quantize(values, step.expand(50)[:, None], zero_point.expand(50)[:, None], grid)
        return float(((rounded - values).square().mean(1) / sigma(t).square()).mean())

    best, static = error(*SEARCH.fit(samples, grid)), error(*SEARCH.fit(samples.pooled(1), grid))
    assert error(*source.at(t)) <= 1.05 * best
    assert static > 1.25 * best
    zeros = source.at(t)[1]
    assert zeros is not None
    assert torch.equal(zeros, zeros.round())
    assert bool(quantizer.calibrated)


def test_on_an_affine_grid_both_ends_get_the_gradient_of_what_is_clipped() -> None:
    """Clipped high, the output is the upper end; clipped low, minus the lower one; up to the rounded zero point."""
    source = generator(kind="affine")
    with torch.no_grad():
        source.last.weight.zero_()
    quantizer = Quantizer(Grid(4, "affine"), source=source)
    quantizer.fill(torch.tensor(0.5), torch.tensor(5.0))
    source.context.enter(torch.tensor([7]))
    quantizer(torch.tensor([[100.0, 100.0, -100.0]])).sum().backward()
    slope = torch.sigmoid(source.last.bias.detach())
    assert torch.allclose(source.last.bias.grad / slope, torch.tensor([-1.0, 2.0]), atol=1e-4)


def test_a_generator_that_is_no_better_than_the_static_interval_goes_back_to_it() -> None:
    """A learning rate that throws it far away."""
    t, samples = spreading(40, width=512)
    source = generator(128)
    source.context.remember(t)
    quantizer = Quantizer(Grid(8), source=source)
    kind = GeneratedInterval(GeneratorFit("fitted", 3, 30.0, True, 0.2), 0)
    kind.fit({"q": quantizer}, {"q": samples}, SearchSettings().named("minmax"))
    steps, _ = source.over_time()
    assert float(steps.max() / steps.min()) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(("kind", "last"), [("shifted", 15), ("shifted_narrow", 14)])
def test_t10_silus_minimum_is_code_zero_and_the_last_code_follows_the_grid(kind: str, last: int) -> None:
    quantizer = Quantizer(Grid(4, kind))
    quantizer.fill(torch.tensor(0.2))
    codes = tiny.integers(quantizer, torch.tensor([SILU_MINIMUM, 1e6]))
    assert codes.integers.tolist() == [0, last]
    out = float(quantizer(torch.tensor([SILU_MINIMUM]))[0])
    assert abs(out - SILU_MINIMUM) <= 2**-25


def test_t11_behind_a_dropout_the_smallest_value_grows_with_what_is_kept() -> None:
    quantizer = Quantizer(Grid(4, "shifted"), dropout=0.1)
    quantizer.fill(torch.tensor(0.2))
    behind, x = quantizer, torch.full((1, 8), -50.0)
    assert torch.allclose(behind.train()(x), torch.tensor(SILU_MINIMUM / 0.9), atol=1e-6)
    assert torch.allclose(behind.eval()(x), torch.tensor(SILU_MINIMUM), atol=1e-6)


@pytest.mark.parametrize(("kind", "levels"), [("narrow", 13), ("symmetric", 15)])
def test_t12_four_bits_have_thirteen_levels_on_the_narrow_grid_and_fifteen_on_the_full_one(
    kind: str, levels: int
) -> None:
    quantizer = Quantizer(Grid(4, kind), source=generator())
    quantizer.fill(torch.tensor(0.3))
    quantizer.source.context.enter(torch.tensor([3]))
    with torch.no_grad():
        assert len(quantizer(torch.linspace(-9, 9, 5000)[None]).unique()) == levels


@pytest.mark.parametrize("channels", [16, 33, 128])
def test_t13_the_embedding_is_diffusers_own(channels: int) -> None:
    t = torch.tensor([0, 1, 500, 999])
    theirs = get_timestep_embedding(t, channels, flip_sin_to_cos=True, downscale_freq_shift=0)
    assert torch.allclose(embedding_of(t, channels), theirs, atol=1e-6)


@pytest.mark.parametrize("name", ["unet", "text"])
def test_t14_cached_time_projections_change_nothing(name: str) -> None:
    """In double precision: kernels sum in another order for one row than for a batch, which flips codes in single."""
    model = tabulated_model(name)[0].copy()
    call = next(iter(_source(model).record(model, tiny.DDIM)))
    model.denoiser.double()
    cond = {key: value.double() if value.is_floating_point() else value for key, value in call.cond.items()}
    cached = model.copy()
    assert cache_time_layers(cached)
    plain, other = (m.predict(call.x.double(), call.t, cond) for m in (model, cached))
    assert torch.allclose(plain, other, atol=1e-6)


def test_t14_an_embedding_of_more_than_time_is_not_cached() -> None:
    model = tiny.class_model()
    with pytest.raises(RequestError, match="time_layers"):
        fitted(model, method(cache_time_layers=True, **{"generator.iterations": 0}))


def test_t16_at_32_bits_activations_pass_and_no_generator_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Generated, "reach", lambda *_: pytest.fail("a generator ran"))
    model, plain = tiny.unconditional_model(), tiny.unconditional_model()
    fitted(model, method(weight_bits=16, activation_bits=32))
    assert not [module for module in model.denoiser.modules() if isinstance(module, Generated)]
    assert torch.allclose(_draw(model), _draw(plain), atol=1e-3)


def test_t17_an_unseen_step_is_refused_or_interpolated() -> None:
    place, table = context(), torch.tensor([1.0, 2.0, 4.0])
    place.remember(torch.tensor([100.0, 300, 500]))
    place.enter(torch.tensor([300, 200]))
    with pytest.raises(UnknownStep, match="200"):
        place.look_up(table)
    place = context(interpolate=True)
    place.remember(torch.tensor([100.0, 300, 500]))
    place.enter(torch.tensor([300, 200, 450, 50, 999]))
    assert place.look_up(table).tolist() == [2.0, 1.5, 3.5, 1.0, 4.0]


def test_t17_sampling_at_another_step_count_is_refused_until_it_is_tabulated_again() -> None:
    fitted_once, state = tabulated_model("unet")
    model, seven = fitted_once.copy(), Sampler("ddim", "DDIMScheduler", 7)
    with pytest.raises(UnknownStep):
        _draw(model, seven)
    tabulate(model, model.times(seven))
    again = _draw(model, seven)
    other = tiny.unconditional_model()
    restore(other, {"tdq": dataclasses.replace(method(), sampler=seven)}, state)
    assert torch.equal(_draw(other, seven), again)
    between = tiny.unconditional_model()
    restore(between, {"tdq": method(unseen_steps="interpolate")}, state)
    assert torch.isfinite(_draw(between, seven)).all()


def test_two_models_and_copies_keep_their_time_apart() -> None:
    model, _ = tabulated_model("unet")
    twin = with_generators(model)
    assert sources(twin)[0].context is time_context_of(twin.denoiser)
    assert sources(twin)[0].context is not time_context_of(model.denoiser)
    call = next(iter(CALIBRATION.record(model, tiny.DDIM)))
    expected = model.predict(call.x, call.t, call.cond)
    twin.predict(call.x, call.t - 1, call.cond)
    assert torch.equal(model.predict(call.x, call.t, call.cond), expected)
    assert copy.deepcopy(model.denoiser).time_context is not model.denoiser.time_context


def test_calibration_that_holds_nan_or_nothing_is_refused() -> None:
    model = tiny.unconditional_model()
    tdq = method()
    tdq.prepare(model)
    with pytest.raises(RequestError, match="calibration=empty"):
        tdq.calibrate(model, [])
    call = next(iter(CALIBRATION.record(model, tiny.DDIM)))
    spoilt = type(call)(call.x * float("nan"), call.t, call.cond, call.step)
    with pytest.raises(RequestError, match=r"calibration=.*input_quantizer: .*NaN"):
        tdq.calibrate(model, [spoilt])


def test_a_model_without_a_layer_to_quantise_is_refused() -> None:
    model = tiny.unconditional_model()
    with pytest.raises(RequestError, match="convolutions or linear layers"):
        method(skip=["."]).prepare(model)
    with pytest.raises(RequestError, match="skip=nonsense"):
        method(skip=["nonsense"]).prepare(tiny.unconditional_model())


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"weight_bits": 1}, "weight_bits"),
        ({"activation_bits": 33}, "activation_bits"),
        ({"activation_bits": 2, "grid": "narrow"}, "activation_bits"),
        ({"interval": "static", "cache_time_layers": True}, "cache_time_layers"),
        ({"learning": "pqt"}, "learning"),
        ({"generator.dropout": 1.0}, "dropout"),
        ({"training_recipe.learning_rate": 0.0}, "learning_rate"),
    ],
)
def test_a_wrong_request_names_its_key(changes: dict[str, object], key: str) -> None:
    with pytest.raises(RequestError, match=key):
        method(**changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[DiffusionModel, dict[str, Tensor], Quantize, object]:
    """A few steps of QAT through Lightning."""
    overrides = ["trainer.max_steps=3", "trainer.progress=false", "trainer.checkpoint_every=0", "data.batch_size=8"]
    config = Composer("config").compose(overrides)
    trainer, data = construct(config.trainer, "trainer"), construct(config.data, "data")
    model, tdq, learners = (
        tiny.unconditional_model(),
        method(recipe="paper", weight_groups="tensor", learning="qat"),
        [],
    )

    def fit(name: str, learner: object) -> None:
        learners.append(learner)
        trainer.fit(learner, tmp_path_factory.mktemp(name), data=data)

    calls = LazyCalls(CALIBRATION, model, tiny.DDIM)
    state = compress(model, model.copy(), {"tdq": tdq}, lambda _: calls, fit)
    return model, state, tdq, learners[0]


def test_t15_what_is_sampled_is_the_average(
    trained: tuple[DiffusionModel, dict[str, Tensor], Quantize, object],
) -> None:
    model, state, _, learner = trained
    average = learner.ema.state()
    assert all(torch.equal(state[name], average[name]) for name in state)
    images = _draw(model)
    with torch.no_grad():
        for name, parameter in model.denoiser.named_parameters():
            if ".hidden." in name or ".last." in name:
                parameter.add_(1.0)
    assert torch.equal(_draw(model), images)


def test_training_moves_generators_weights_and_weight_steps(
    trained: tuple[DiffusionModel, dict[str, Tensor], Quantize, object],
) -> None:
    _, state, tdq, learner = trained
    before = tiny.unconditional_model()
    tdq.prepare(before)
    start = before.denoiser.state_dict()
    for ending in ("source.hidden.0.weight", "source.last.bias", "weight_quantizer.source.raw", "layer.weight"):
        moved = [name for name in state if name.endswith(ending)]
        assert moved
        assert all(not torch.equal(state[name], start[name]) for name in moved)
    rates = [group["lr"] / group["initial_lr"] for group in learner.optimizers().param_groups]
    assert len(rates) == 3
    first, second, third = (group["initial_lr"] for group in learner.optimizers().param_groups)
    assert first == pytest.approx(second / 10) == pytest.approx(third / 10)
    assert [group["weight_decay"] for group in learner.optimizers().param_groups] == [0.0, 0.01, 0.01]


def test_a_trained_model_is_restored_from_its_file(
    trained: tuple[DiffusionModel, dict[str, Tensor], Quantize, object], tmp_path: Path
) -> None:
    from parediff.pipeline.compress import load_state, save

    _, state, tdq, _ = trained
    first, second = tiny.unconditional_model(), tiny.unconditional_model()
    restore(first, {"tdq": tdq}, state)
    restore(second, {"tdq": tdq}, load_state(save(state, tmp_path)))
    assert torch.equal(_draw(first), _draw(second))
