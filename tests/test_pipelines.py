"""Every architecture that people run keeps the promises of a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import pipelines
import tiny
from parediff.cost import counting
from parediff.models.diffusion.attention import attentions, explicit_attention
from parediff.models.diffusion.door import recording
from parediff.models.diffusion.sampler import Sampler

TOLERANCE = 0.01
OWN = Sampler("own", None, 3)


@pytest.mark.parametrize("name", pipelines.params(pipelines.KINDS))
def test_image_i_depends_on_seed_i_and_condition_i_only(name: str) -> None:
    model = pipelines.model(name)
    conditions = pipelines.conditions(name, 2)
    together = model.generate([3, 7], conditions, OWN)
    alone = model.generate([7], conditions and conditions[1:], OWN)
    assert torch.isfinite(together).all()
    assert (together.min() >= 0 and together.max() <= 1) or name == "stable_cascade"
    assert torch.allclose(together[1:], alone, atol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=1e-3)
    frames = pipelines.KINDS[name].frames
    assert together.shape[1] == frames if frames else together.ndim == 4


@pytest.mark.parametrize("name", pipelines.params(pipelines.KINDS))
def test_a_recorded_call_replays_and_its_time_is_known_before(name: str) -> None:
    model = pipelines.model(name)
    with recording(model) as calls:
        model.generate([3], pipelines.conditions(name, 1), OWN)
    with torch.no_grad():
        outputs = [model.predict(call.x, call.t, call.cond) for call in calls]
    assert all(torch.isfinite(output).all() for output in outputs)
    seen = torch.cat([call.t.double().reshape(-1) for call in calls]).unique()
    assert torch.equal(model.times(OWN), seen)


def torchs_own_count(call: Any) -> float:
    """Half of the operations that torch's counter sees; it knows attention only in the kernel of plain products."""
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            call()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    return counter.get_total_flops() / 2


def counted(network: nn.Module, call: Any) -> int:
    with torch.no_grad(), counting(network) as counter:
        call()
    return counter.macs


@pytest.mark.parametrize("name", pipelines.params(pipelines.KINDS))
def test_macs_are_those_of_torchs_own_counter(name: str) -> None:
    model, first = pipelines.model(name), pipelines.first_call(name)

    def call() -> Any:
        return model.predict(first.x, first.t, first.cond)

    assert counted(model.denoiser, call) == pytest.approx(torchs_own_count(call), rel=TOLERANCE)


@pytest.mark.parametrize(("name", "gmacs"), [("vit_b_16", 17.56), ("swin_t", 4.49), ("resnet18", 1.81)])
def test_functional_attention_of_classifiers_is_counted(name: str, gmacs: float) -> None:
    with torch.device("meta"):
        network, x = torchvision.models.get_model(name, weights=None).eval(), torch.zeros(1, 3, 224, 224)
    macs = counted(network, lambda: network(x))
    assert macs / 1e9 == pytest.approx(gmacs, abs=0.01)
    assert macs == pytest.approx(torchs_own_count(lambda: network(x)), rel=TOLERANCE)


@pytest.mark.parametrize("name", pipelines.params(pipelines.KINDS))
def test_opened_attention_draws_the_same_with_every_product_in_a_module(name: str) -> None:
    model, call = pipelines.model(name), pipelines.first_call(name)
    plain, before = _call(model, call)
    paths = explicit_attention(model.denoiser)
    opened, after = _call(model, call)
    assert paths == list(attentions(model.denoiser))
    assert torch.allclose(opened, plain, atol=1e-4, rtol=1e-3)
    assert tiny.macs_of(after, "matmul") == tiny.macs_of(before, "matmul") > 0
    hidden = [layer for layer, cost in after.layers.items() if cost.kind == "matmul" and ".products." not in layer]
    assert not hidden
    assert torch.equal(_call(model.copy(), call)[0], opened)


def _call(model: Any, call: Any) -> Any:
    with torch.no_grad(), counting(model.denoiser) as counter:
        return model.predict(call.x, call.t, call.cond), counter


def vit() -> nn.Module:
    return torchvision.models.VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32)


def swin() -> nn.Module:
    return torchvision.models.SwinTransformer([4, 4], 16, depths=[2, 2], num_heads=[2, 4], window_size=[4, 4])


@pytest.mark.parametrize("build", [vit, swin])
def test_attention_of_classifiers_opens_too(build: Callable[[], nn.Module]) -> None:
    network = build().eval()
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        plain = network(x)
        explicit_attention(network)
        with counting(network) as counter:
            opened = network(x)
    assert torch.allclose(plain, opened, atol=1e-4)
    products = [layer for layer, cost in counter.layers.items() if cost.kind == "matmul"]
    assert products
    assert all(".products." in layer for layer in products)
