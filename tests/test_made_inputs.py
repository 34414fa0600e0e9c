"""Inputs of a denoiser that cost no trajectory, and the numbers that any of them must have (F2 to F8, F10).

The numbers are those of data-free-diffusion.md. F1 is P2 of test_calibration, F9 stands in test_data_free.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import datafree
import tiny
from parediff.calibration.images import ImageSource
from parediff.calibration.made_inputs import MadeInputs, magnitudes, ratios
from parediff.calibration.noise import Noise
from parediff.calibration.uniform import Uniform
from parediff.calibration.zs_cgan import ZSCGAN
from parediff.errors import RequestError
from parediff.models.classifiers.model import ClassifierModel
from parediff.models.diffusion.door import Call, recording
from parediff.models.diffusion.sampler import Sampler

SEED = 10**9
GENERATOR = ZSCGAN(
    SEED, 8, 4, steps=3, learning_rate=1e-3, cosine=False, latent=8, statistics=1.0, balance=0.0
)  # fmt: skip


def made(images: ImageSource, folder: Path, told: dict[str, Any], **changes: Any) -> Any:
    """A source that has begun: its generator is trained below `folder`, and `told` hears what it finds."""
    classifier = SimpleNamespace(load=lambda _: ClassifierModel(datafree.network(), name="tiny"))
    settings: dict[str, Any] = {
        **{"first_seed": SEED, "count": 8, "batch_size": 4, "steps": 5, "trajectories": 4, "quantile": 0.999},
        **{"lowest": 0.8, "highest": 1.25, "share": 0.9, "early": 0.3},
        "classifier": classifier,
    }
    source = MadeInputs(images=images, **(settings | changes))
    fit = lambda name, module, steps: datafree.trainer(steps).fit(module, folder / name)  # noqa: E731
    return source.begun(fit, told.update)


def test_f2_the_time_that_is_stored_is_the_time_that_the_network_is_given() -> None:
    model, given = tiny.class_model(guidance_scale=2.0), []

    def look(_: Any, arguments: Any, named: Any) -> None:
        time = named.get("timestep", arguments[1] if len(arguments) > 1 else None)
        given.append(torch.as_tensor(time).reshape(-1))

    hook = model.denoiser.register_forward_pre_hook(look, with_kwargs=True)
    with recording(model) as calls:
        model.generate((1, 2), (0, 1), tiny.DDIM)
    hook.remove()
    assert len(calls) == len(given) == tiny.DDIM.steps
    assert all(torch.equal(call.t, time.expand(len(call.t))) for call, time in zip(calls, given, strict=True))


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_f3_every_kept_step_has_as_many_records_and_guidance_has_twice_as_many(guidance: float) -> None:
    calls = list(Uniform(SEED, 6, 3, 4).record(tiny.class_model(guidance_scale=guidance), tiny.DDIM))
    counts: dict[int, int] = {}
    for call in calls:
        counts[call.step] = counts.get(call.step, 0) + len(call.x)
    assert len(counts) == 4
    assert set(counts.values()) == {6 if guidance == 1 else 12}


def test_f4_two_seeds_give_layers_the_same_magnitudes() -> None:
    model = tiny.unconditional_model()
    first, second = (
        magnitudes(model, Uniform(seed, 32, 32, 5).record(model, tiny.DDIM), 0.999) for seed in (SEED, 2 * SEED)
    )
    apart = torch.tensor([abs(first[path] / second[path] - 1) for path in first])
    assert float(apart.median()) < 0.05


def test_f5_classes_are_drawn_alike() -> None:
    model = tiny.class_model()
    classes = model.conditions_for(range(SEED, SEED + 300))
    assert classes is not None
    counts = torch.tensor(classes).bincount(minlength=3).double()
    assert float(((counts - 100).square() / 100).sum()) < 13.8  # p = 1e-3 with 2 degrees of freedom


class Gaussian:
    """The exact teacher of x0 ~ N(mean, variance) on a sampler's own schedule, in float64 (data-free-diffusion.md, 5).

    `signal` is f(x, t) = E[x0 | x_t]; `update` the exact step of 5.2 from t to the next time of the sampler.
    """

    mean, variance = 0.3, 0.49

    def __init__(self, steps: int) -> None:
        sampler = Sampler("ddim", "DDIMScheduler", steps, options={"clip_sample": False})
        self.scheduler = sampler.scheduler_for(tiny.unconditional_model().pipeline)
        self.scheduler.alphas_cumprod = self.scheduler.alphas_cumprod.double()
        self.scheduler.set_timesteps(steps)
        self.times = self.scheduler.timesteps.tolist()

    def levels(self, place: int) -> tuple[float, float]:
        """(alpha, sigma) at a place among the times; behind the last one those of the image."""
        last = self.scheduler.final_alpha_cumprod
        kept = float(last if place == len(self.times) else self.scheduler.alphas_cumprod[self.times[place]])
        return kept**0.5, (1 - kept) ** 0.5

    def ratio(self, place: int) -> float:
        """r of one step."""
        return ratio_of(self.levels(place), self.levels(place + 1))

    def signal(self, x: Tensor, place: int) -> Tensor:
        alpha, sigma = self.levels(place)
        gain = self.variance * alpha / (alpha**2 * self.variance + sigma**2)
        return self.mean + gain * (x - alpha * self.mean)

    def update(self, y: Tensor, noise: Tensor, place: int) -> Tensor:
        alpha, sigma = self.levels(place)
        ratio = self.ratio(place)
        return ratio * y + (1 - ratio) * self.signal(alpha * y + sigma * noise, place)

    def trajectory(self, x: Tensor) -> list[Tensor]:
        """x at every time and at the image, as the sampler goes."""
        found = [x]
        for place, t in enumerate(self.times):
            alpha, sigma = self.levels(place)
            predicted = (found[-1] - alpha * self.signal(found[-1], place)) / sigma
            found.append(self.scheduler.step(predicted, t, found[-1]).prev_sample)
        return found


def ratio_of(now: tuple[float, float], later: tuple[float, float]) -> float:
    """r = alpha_t sigma_s / (alpha_s sigma_t), of (alpha, sigma) at t and s."""
    return now[0] * later[1] / (later[0] * now[1])


@pytest.mark.parametrize("steps", [4, 20])
def test_f6_the_exact_signal_update_is_our_ddim(steps: int) -> None:
    teacher, noise = Gaussian(steps), torch.randn(16, 1, 2, 2).double()
    start = torch.randn(16, 1, 2, 2).double()  # any trajectory, whatever noise it is told by
    expected = teacher.trajectory(start)
    alpha, sigma = teacher.levels(0)
    y = (start - sigma * noise) / alpha
    for place in range(steps):
        y = teacher.update(y, noise, place)
        alpha, sigma = teacher.levels(place + 1)
        torch.testing.assert_close(alpha * y + sigma * noise, expected[place + 1], atol=1e-6, rtol=0)


def test_f7_the_trajectory_itself_has_no_bootstrap_loss() -> None:
    teacher, noise = Gaussian(10), torch.randn(16, 1, 2, 2).double()
    alpha, sigma = teacher.levels(0)
    boundary = teacher.signal(noise, 0)
    path = teacher.trajectory(alpha * boundary + sigma * noise)
    levels = [teacher.levels(place) for place in range(len(path))]
    signals = [(x - sigma * noise) / alpha for x, (alpha, sigma) in zip(path, levels, strict=True)]
    losses = [
        float((signals[place + 1] - teacher.update(signals[place], noise, place)).square().mean())
        for place in range(len(teacher.times))
    ]
    assert max(losses) < 1e-10
    assert float((signals[0] - boundary).square().mean()) < 1e-10


def test_f8_what_is_kept_of_the_signal_lies_between_nothing_and_all_and_grows_with_nearness() -> None:
    teacher = Gaussian(1000)
    start = teacher.times.index(800)
    kept = [ratio_of(teacher.levels(start), teacher.levels(place)) for place in range(start + 1, 1000)]
    assert all(0 < ratio < 1 for ratio in kept)
    assert kept == sorted(kept, reverse=True), "the farther the later time, the less"
    assert kept[0] > 0.98


def test_f10_images_are_in_the_range_of_the_model_before_the_noise(tmp_path: Path) -> None:
    for images in (Noise(SEED, 8, 4), GENERATOR):
        found, labels = made(images, tmp_path, {})._made(tiny.class_model())
        assert found.shape == (8, *datafree.SHAPE)
        assert labels.shape == (8,)
        assert float(found.abs().max()) <= 1


def test_a_models_own_calls_have_the_ratio_of_one() -> None:
    model = tiny.class_model()
    calls = list(Uniform(SEED, 4, 4, 3).record(model, tiny.DDIM))
    assert set(ratios(model, calls, calls, 0.999).values()) == {1.0}


def test_accepted_images_are_noised_at_every_step_and_the_record_hears_of_it(tmp_path: Path) -> None:
    told: dict[str, Any] = {}
    source = made(GENERATOR, tmp_path, told, lowest=1e-6, highest=1e6)
    calls: list[Call] = list(source.record(tiny.class_model(), tiny.DDIM))
    assert told["accepted"] is True
    assert told["share_of_layers"] == 1.0
    assert sum(len(call.x) for call in calls) == 8 * min(5, tiny.DDIM.steps)
    assert all(call.cond["class_labels"].shape == (len(call.x),) for call in calls)
    again = list(
        made(GENERATOR, tmp_path / "again", {}, lowest=1e-6, highest=1e6).record(tiny.class_model(), tiny.DDIM)
    )
    assert all(torch.equal(a.x, b.x) for a, b in zip(calls, again, strict=True))


def test_images_that_are_not_accepted_give_way_to_the_models_own_near_the_image(tmp_path: Path) -> None:
    told: dict[str, Any] = {}
    source = made(Noise(SEED, 8, 4), tmp_path, told, lowest=2.0, highest=3.0, early=0.5)
    model = tiny.class_model()
    calls = list(source.record(model, tiny.DDIM))
    assert told["accepted"] is False
    own = [call.x for call in Uniform(SEED + 8, 4, 4, 5).record(model, tiny.DDIM) if float(call.t[0]) < 500]
    early = [call.x for call in calls if float(call.t[0]) < 500]
    assert len(early) == len(own) > 0
    assert all(torch.equal(a, b) for a, b in zip(early, own, strict=True))
    assert any(float(call.t[0]) >= 500 for call in calls)


def test_models_without_classes_or_with_others_are_refused(tmp_path: Path) -> None:
    source = made(GENERATOR, tmp_path, {})
    with pytest.raises(RequestError, match="calibration=made_inputs: a class-conditional model"):
        list(source.record(tiny.unconditional_model(), tiny.DDIM))
    other = SimpleNamespace(load=lambda _: ClassifierModel(_four_classes(), name="tiny"))
    with pytest.raises(RequestError, match=r"calibration\.classifier=4 classes: one of 3 classes"):
        list(made(GENERATOR, tmp_path, {}, classifier=other).record(tiny.class_model(), tiny.DDIM))


def _four_classes() -> Any:
    network = datafree.network()
    network.linear = torch.nn.Linear(8, 4)
    return network
