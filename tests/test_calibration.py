"""Calibration data: what is recorded, from where, in how much memory (P1 to P3, P7 of ptq4dm.md; X10)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pytest
import torch
from torch import Tensor

import tiny
from parediff.calibration.base import CalibrationSource, LazyCalls, walk
from parediff.calibration.ndtc import NDTC, clamped
from parediff.calibration.real_data import RealData
from parediff.calibration.single_step import SingleStep
from parediff.calibration.store import CallStore
from parediff.calibration.uniform import Uniform
from parediff.errors import RequestError
from parediff.models.diffusion.door import Call, observing
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler

SEED = 10**9


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """Training images x0 ~ N(0, 0.5^2)."""

    image_shape: tuple[int, int, int] = (1, 8, 8)

    @property
    def train(self) -> list[tuple[Tensor, int]]:
        draws = 0.5 * torch.randn(1100, *self.image_shape, generator=torch.Generator().manual_seed(0))
        return [(image, index % 3) for index, image in enumerate(draws)]


SOURCES = [
    Uniform(SEED, 5, 2, 3),
    NDTC(SEED, 5, 2, 0.4, 0.4),
    SingleStep(SEED, 5, 2, 2),
    RealData(SEED, 5, 2, 3, Gaussian),
]


def test_p1_time_steps_are_normal_before_and_piled_up_at_the_ends_after_clamping() -> None:
    total, count = 250, 25_000
    draws = NDTC(0, count, 64, 0.4, 0.4).draw(range(count), total)
    error = 0.4 * total / count**0.5
    assert abs(float(draws.mean()) - 0.4 * total) < 3 * error
    assert abs(float(draws.std()) - 0.4 * total) < 3 * error
    steps = clamped(draws, total)
    for end, share in ((0, 0.161), (total - 1, 0.068)):
        assert abs(float((steps == end).float().mean()) - share) < 3 * (share * (1 - share) / count) ** 0.5 + 5e-4


@pytest.mark.parametrize("source", SOURCES[:3], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_p2_x10_every_stored_call_replays_to_the_output_it_had(source: CalibrationSource, spacing: str) -> None:
    model = tiny.class_model(guidance_scale=2.0)
    sampler = Sampler("ddim", "DDIMScheduler", 7, options={"timestep_spacing": spacing})
    made: dict[tuple[bytes, float, int], Tensor] = {}
    with observing(model, lambda call, output: made.update(zip(_keys(call), output, strict=True))):
        stored = list(LazyCalls(source, model, sampler))
    assert stored
    for call in stored:
        for key, row in zip(_keys(call), model.predict(call.x, call.t, call.cond), strict=True):
            assert torch.allclose(row, made[key], atol=1e-5)


def _keys(call: Call) -> list[tuple[bytes, float, int]]:
    """What identifies a row: its pixels, its time, its class."""
    rows = zip(call.x, call.t.tolist(), call.cond["class_labels"].tolist(), strict=True)
    return [(x.numpy().tobytes(), t, label) for x, t, label in rows]


def test_p3_noised_data_has_the_variance_of_the_schedule() -> None:
    model = tiny.unconditional_model()
    source = RealData(SEED, 1024, 256, 4, Gaussian)
    kept = model.pipeline.scheduler.alphas_cumprod
    by_step: dict[int, list[Tensor]] = {}
    for call in source.record(model, tiny.DDIM):
        by_step.setdefault(int(call.t[0]), []).append(call.x)
    assert len(by_step) == 4
    for t, parts in by_step.items():
        expected = float(kept[t]) * 0.25 + 1 - float(kept[t])
        assert abs(float(torch.cat(parts).var()) / expected - 1) < 0.02


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("source", SOURCES, ids=lambda s: type(s).__name__)
def test_p7_no_sample_is_dropped_whatever_the_batch(source: CalibrationSource, count: int) -> None:
    calls = list(dataclasses.replace(source, count=count).record(tiny.unconditional_model(), tiny.DDIM))
    expected = count if isinstance(source, NDTC | SingleStep) else 3 * count
    assert sum(len(call.x) for call in calls) == expected


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: type(s).__name__)
def test_the_same_seed_records_the_same_calls_in_any_batch(source: CalibrationSource) -> None:
    first, again, regrouped = (
        _rows(dataclasses.replace(source, batch_size=size), tiny.unconditional_model()) for size in (2, 2, 5)
    )
    assert first == again
    assert first.keys() == regrouped.keys()
    assert all(torch.allclose(first[key], regrouped[key], atol=1e-4) for key in first)
    other = _rows(dataclasses.replace(source, first_seed=SEED + 100), tiny.unconditional_model())
    assert not any(torch.equal(a, b) for a in first.values() for b in other.values())


class _Exact(dict[tuple[float, int], Tensor]):
    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, dict)
            and self.keys() == other.keys()
            and all(torch.equal(self[key], other[key]) for key in self)
        )

    __hash__ = None  # type: ignore[assignment]


def _rows(source: CalibrationSource, model: DiffusionModel) -> _Exact:
    """Every sample by its time step and its place among the samples of that time step."""
    found, counts = _Exact(), {}
    for call in source.record(model, tiny.DDIM):
        for x, t in zip(call.x, call.t.tolist(), strict=True):
            counts[t] = counts.get(t, 0) + 1
            found[(t, counts[t])] = x
    return found


def test_uniform_keeps_evenly_spaced_steps_of_the_sampler() -> None:
    calls = list(Uniform(SEED, 2, 2, 5).record(tiny.unconditional_model(), Sampler("ddim", "DDIMScheduler", 20)))
    assert [call.step for call in calls] == [0, 4, 8, 12, 16]


def test_trajectories_may_have_another_number_of_steps_than_the_run() -> None:
    source = dataclasses.replace(Uniform(SEED, 2, 2, 20), sampler_steps=20)
    assert len(list(source.record(tiny.unconditional_model(), tiny.DDIM))) == 20


def test_both_branches_of_guidance_are_recorded() -> None:
    model = tiny.class_model(guidance_scale=2.0)
    for call in NDTC(SEED, 4, 4, 0.4, 0.4).record(model, tiny.DDIM):
        conditional, unconditional = call.cond["class_labels"].chunk(2)
        assert bool((unconditional == model.null_class).all())
        assert bool((conditional < 3).all())
        assert torch.equal(call.x.chunk(2)[0], call.x.chunk(2)[1])


def test_prompts_are_given_to_text_models() -> None:
    source = dataclasses.replace(Uniform(SEED, 2, 2, 2), conditions=("a cat", "a dog"))
    calls = list(LazyCalls(source, tiny.text_model(guidance_scale=3.0), tiny.DDIM))
    assert len(calls) == 2
    assert calls[0].cond["encoder_hidden_states"].shape[0] == 4


def test_a_stored_call_comes_back_bit_by_bit() -> None:
    store, half = CallStore(), torch.randn(2, 3).half()
    call = Call(torch.randn(2, 1, 4, 4), torch.tensor([3, 900]), {"a": half, "nested": {"b": half, "c": 1.5}}, 7)
    store.append(call)
    store.append(call)
    (back, second) = list(store)
    assert torch.equal(back.x, call.x)
    assert torch.equal(back.t, call.t)
    assert back.step == second.step == 7
    assert torch.equal(back.cond["nested"]["b"], half)
    assert back.cond["nested"]["c"] == 1.5
    assert back.cond["a"].dtype == torch.float16
    assert store.size_bytes == call.x.numel() * 4 + 2 * 8 + half.numel() * 2


def test_memory_does_not_grow_with_the_number_of_stored_calls() -> None:
    """Peak resident memory of recording and reading 64 MiB and 256 MiB of calls differs by less than 16 MiB."""
    store = CallStore()
    before = _resident()
    for index in range(256):
        store.append(Call(torch.full((1, 1, 512, 512), float(index)), torch.tensor([index]), {}, index))
        if index == 63:
            early = _resident()
    assert store.size_bytes > 256 * 2**20
    total = sum(float(call.x[0, 0, 0, 0]) for call in store)
    assert total == sum(range(256))
    assert _resident() - max(before, early) < 16 * 2**20


def _resident() -> int:
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))


def test_a_trajectory_is_recorded_lazily_batch_by_batch() -> None:
    model = tiny.unconditional_model()
    drawn: list[int] = []
    calls: Iterator[Call] = iter(Uniform(SEED, 100, 2, 5).record(model, tiny.DDIM))
    with observing(model, lambda call, _: drawn.append(len(call.x))):
        next(calls)
    assert sum(drawn) == 2 * tiny.DDIM.steps


def recorded(source: CalibrationSource) -> list[Call]:
    return list(source.record(tiny.unconditional_model(), tiny.DDIM))


@pytest.mark.parametrize(
    ("build", "key"),
    [
        (lambda: Uniform(-1, 1, 1, 1), "first_seed"),
        (lambda: Uniform(0, 0, 1, 1), "count"),
        (lambda: Uniform(0, 1, 1, 0), "steps"),
        (lambda: NDTC(0, 1, 1, 1.5, 0.4), "mean"),
        (lambda: NDTC(0, 1, 1, 0.4, -1.0), "std"),
        (lambda: SingleStep(0, 1, 1, -1), "step"),
        (lambda: RealData(0, 0, 1, 1, None), "count"),
        (lambda: recorded(SingleStep(0, 1, 1, 9)), "calibration.step"),
        (
            lambda: list(RealData(0, 9999, 1, 1, Gaussian).record(tiny.unconditional_model(), tiny.DDIM)),
            "calibration.count",
        ),
        (
            lambda: list(
                RealData(0, 1, 1, 1, lambda: Gaussian((3, 8, 8))).record(tiny.unconditional_model(), tiny.DDIM)
            ),
            "calibration",
        ),
    ],
)
def test_a_wrong_request_names_its_key(build: object, key: str) -> None:
    with pytest.raises(RequestError) as caught:
        build()  # type: ignore[operator]
    assert caught.value.key == key


@pytest.mark.parametrize("sampler", [tiny.DDIM, Sampler("ddim", "DDIMScheduler", 5, eta=1.0)], ids=["ddim", "eta"])
@pytest.mark.parametrize(
    "model",
    [
        tiny.unconditional_model,
        partial(tiny.class_model, 2.0),
        partial(tiny.text_model, 3.0),
        pytest.param(partial(tiny.dit_model, 1.5), marks=pytest.mark.slow),
    ],
    ids=["plain", "classes", "text", "dit"],
)
def test_a_walk_that_answers_as_the_network_meets_what_a_run_records(
    model: Callable[[], DiffusionModel], sampler: Sampler
) -> None:
    """Guidance, the sampler's noise and the order of the images are the pipeline's own."""
    walked, plain = model(), model()
    for one in (walked, plain):
        one.pipeline.to(torch.float64)  # batches of other sizes round differently
    source = Uniform(SEED, 5, 2, 5, conditions=("a", "b") if walked.conditioning == "text" else None)
    met: dict[int, Tensor] = {}

    def visit(place: int, parts: Sequence[Call]) -> list[Tensor]:
        met[place] = torch.cat([part.x for part in parts])
        return [walked.predict(part.x, part.t, part.cond) for part in parts]

    calls = LazyCalls(source, walked, sampler)
    walk(calls, walked, sampler, visit)
    assert calls.rows == sum(len(x) for x in met.values())
    recorded = list(LazyCalls(dataclasses.replace(source, batch_size=5), plain, sampler))
    assert sorted(met) == [0, 1, 2, 3, 4]
    for call in recorded:
        assert torch.allclose(met[4 - call.step], call.x, atol=1e-5)
