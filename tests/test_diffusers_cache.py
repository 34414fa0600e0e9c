"""diffusers' caches as methods: what they skip, what they cost, and where they are refused."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

import pipelines
from parediff.cost import counting
from parediff.errors import RequestError
from parediff.methods.diffusers_cache import DiffusersCache
from parediff.models.diffusion.door import Call, recording
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.resources import shipped
from reusing import frdiff

CACHES = ("first_block_cache", "taylorseer", "mag_cache", "faster_cache", "pyramid_attention_broadcast")
EAGER: dict[str, dict[str, Any]] = {
    "first_block_cache": {"threshold": 10.0},
    "taylorseer": {"cache_interval": 2, "disable_cache_before_step": 2},
    "mag_cache": {"threshold": 10.0},
    "faster_cache": {
        "spatial_attention_timestep_skip_range": [-1, 1001],
        "unconditional_batch_timestep_skip_range": [-1, 1001],
    },
    "pyramid_attention_broadcast": {
        "spatial_attention_timestep_skip_range": [-1, 1001],
        "cross_attention_timestep_skip_range": [-1, 1001],
    },
}
"""Settings under which a random network of two blocks is skipped for sure."""
STEPS = Sampler("own", None, 6)
SUPPORTED = {
    "first_block_cache": ("flux", "wan", "ltx", "qwen_image", "cogview4", "cogvideox", "hunyuan_video", "dit"),
    "mag_cache": ("flux", "sd3", "wan", "ltx", "qwen_image", "cogview4", "cogvideox", "hunyuan_video", "mochi", "dit"),
    "taylorseer": tuple(pipelines.KINDS),
    "pyramid_attention_broadcast": ("sd1", "sdxl", "dit", "sd3", "flux", "wan", "ltx", "cogvideox", "mochi"),
}


def cache(name: str, **settings: Any) -> DiffusersCache:
    node = yaml.safe_load((shipped("conf") / "method" / f"{name}.yaml").read_text())
    node.pop("_target_")
    return DiffusersCache(**(node | {"steps": STEPS.steps, "settings": node["settings"] | settings}))


def prepared(model: DiffusionModel, method: DiffusersCache, name: str) -> DiffusionModel:
    student = model.copy()
    method.prepare(student)
    method.calibrate(student, calibration(name))
    method.finalize(student)
    return student


@functools.cache
def calibration(name: str) -> list[Call]:
    """The calls of one image."""
    model = pipelines.model(name)
    with recording(model) as calls:
        model.generate([90], pipelines.conditions(name, 1), STEPS)
    return calls


@functools.cache
def plainly(name: str) -> tuple[Tensor, int]:
    """Two images without a cache, and what they cost."""
    model = pipelines.model(name)
    with counting(model.denoiser) as counter:
        return model.generate([3, 7], pipelines.conditions(name, 2), STEPS), counter.macs


@pytest.mark.parametrize("name", pipelines.params(pipelines.KINDS, ("flux", "wan", "sd1")))
@pytest.mark.parametrize("kind", CACHES)
def test_a_cache_skips_work_or_is_refused_before_sampling(kind: str, name: str) -> None:
    model = pipelines.model(name)
    method = cache(kind, **EAGER[kind])
    try:
        student = prepared(model, method, name)
    except RequestError as refused:
        told = str(refused)
        assert name not in SUPPORTED.get(kind, ()), told
        assert "\n" not in told, told
        return
    expected, macs = plainly(name)
    with counting(student.denoiser) as counter:
        images = student.generate([3, 7], pipelines.conditions(name, 2), STEPS)
    proof = method.fired(student)
    assert torch.isfinite(images).all()
    assert proof["skipped"] > 0
    assert counter.macs < macs
    assert not torch.equal(images, expected)
    assert torch.equal(student.generate([3, 7], pipelines.conditions(name, 2), STEPS), images), "no state is left"
    assert "forward" not in student.denoiser.__dict__
    left = [getattr(module, "_diffusers_hook", None) for module in student.denoiser.modules()]
    assert not any(registry.hooks for registry in left if registry is not None)


def test_a_threshold_of_nothing_skips_nothing() -> None:
    model = pipelines.model("flux")
    plain = model.generate([3], ["a cat"], STEPS)
    method = cache("first_block_cache", threshold=0.0)
    student = prepared(model, method, "flux")
    assert torch.allclose(student.generate([3], ["a cat"], STEPS), plain, atol=1e-5)
    assert method.fired(student)["skipped"] == 0


def test_the_first_block_always_runs_and_the_rest_is_skipped_together() -> None:
    model = pipelines.model("flux")
    method = cache("first_block_cache", threshold=10.0)
    student = prepared(model, method, "flux")
    student.generate([3], ["a cat"], STEPS)
    assert method.fired(student) == {
        "hooked_calls": 4 * 6,
        "computed": 4 + 5,  # all four blocks at the first step, then the first alone
        "skipped": 15,
        "skipped_share": 15 / 24,
    }


def test_two_calls_of_a_guidance_have_a_cache_each() -> None:
    """Both streams of a run in two calls are what each would be alone: the state of one is never the other's."""
    model = pipelines.model("wan")
    method = cache("pyramid_attention_broadcast", **EAGER["pyramid_attention_broadcast"])
    student = prepared(model, method, "wan")
    with recording(student) as calls:
        student.generate([3], ["a cat"], STEPS)
    assert [call.step for call in calls] == [step for step in range(6) for _ in range(2)]
    assert method.fired(student)["computed"] % 2 == 0


def test_a_ratio_is_measured_for_every_step_of_the_calibration() -> None:
    model = pipelines.model("flux")
    student = prepared(model, cache("mag_cache"), "flux")
    ratios: Any = student.denoiser.get_submodule("magnitude_ratios").ratios
    assert ratios.shape == (6,)
    assert ratios[0] == 1
    assert bool((ratios[1:] != 1).all())


def test_wrong_settings_are_named_and_two_caches_are_refused() -> None:
    with pytest.raises(RequestError, match=r"settings\.treshold=1.*Did you mean threshold"):
        cache("first_block_cache", treshold=1)
    model = pipelines.model("flux")
    cache("first_block_cache").prepare(model)
    with pytest.raises(RequestError, match="one method that reuses features"):
        frdiff().prepare(model)


def test_a_network_without_places_for_a_cache_is_refused_under_the_methods_own_name() -> None:
    with pytest.raises(RequestError, match=r"^method=mag_cache: .*UNet2DConditionModel has none"):
        cache("mag_cache").prepare(pipelines.model("sd1"))
