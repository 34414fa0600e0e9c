"""Cost: published constants, hand arithmetic, and nothing left behind."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from diffusers import DiTTransformer2DModel, UNet2DConditionModel, UNet2DModel
from torch import Tensor, nn

import tiny
from parediff.cost import CallCounter, Counter, counting, paired_latency, peak_memory, size, size_bytes
from parediff.errors import RequestError
from parediff.models.diffusion.attention import Matmul, explicit_attention
from parediff.models.diffusion.door import observing

META = torch.device("meta")
PUBLIC_CHECKPOINT_PARAMETERS = 35_746_307


class Declared(nn.Module):
    """Stands in for a quantised layer: declares bits and calls the arithmetic without calling `layer`."""

    def __init__(self, layer: nn.Module, weight_bits: float, activation_bits: float) -> None:
        super().__init__()
        self.layer, self.weight_bits, self.activation_bits = layer, weight_bits, activation_bits

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.layer, nn.Linear):
            return F.linear(x, self.layer.weight, self.layer.bias)
        return self.layer._conv_forward(x, self.layer.weight, self.layer.bias)


class DeclaredMatmul(Matmul):
    def __init__(self, bits: int) -> None:
        super().__init__()
        self.a_bits = self.b_bits = bits


def declare(model: nn.Module, weight_bits: float, activation_bits: float) -> None:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, (nn.Conv2d, nn.Linear)):
                setattr(parent, name, Declared(child, weight_bits, activation_bits))
            elif isinstance(child, Matmul):
                setattr(parent, name, DeclaredMatmul(int(activation_bits)))


def cifar_unet() -> UNet2DModel:
    """The architecture of google/ddpm-cifar10-32."""
    with META:
        return UNet2DModel(
            sample_size=32,
            in_channels=3,
            out_channels=3,
            center_input_sample=False,
            time_embedding_type="positional",
            freq_shift=1,
            flip_sin_to_cos=False,
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(128, 256, 256, 256),
            layers_per_block=2,
            attention_head_dim=None,
            norm_eps=1e-6,
            norm_num_groups=32,
            downsample_padding=0,
            act_fn="silu",
        )


def count(model: nn.Module, *arguments: Tensor) -> Counter:
    with counting(model) as counter, torch.no_grad():
        model(*arguments)
    return counter


def count_unet(model: nn.Module, batch: int = 1) -> Counter:
    return count(model, torch.zeros(batch, 3, 32, 32, device=META), torch.zeros(batch, device=META))


def hooks_left(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_the_cifar_unet_counts_its_published_macs() -> None:
    model = cifar_unet()
    counter = count_unet(model)
    outside = sum(c.macs for name, c in counter.layers.items() if c.kind == "linear" and "attentions" not in name)
    assert sum(p.numel() for p in model.parameters()) == PUBLIC_CHECKPOINT_PARAMETERS
    assert counter.macs == 6_221_856_768
    assert tiny.macs_of(counter, "matmul") == 167_903_232
    assert outside == 2_883_584  # the paper's table counts the attention's projections as 1x1 convolutions
    assert tiny.macs_of(counter, "conv") + tiny.macs_of(counter, "linear") - outside == 6_051_069_952
    assert counter.bops / 1e9 == pytest.approx(6371.18, abs=0.005)


@pytest.mark.parametrize(
    ("weight_bits", "activation_bits", "gbops"),
    [(8, 8, 398.20), (6, 6, 223.99), (4, 8, 204.47), (4, 4, 99.55), (32, 32, 6371.18)],
)
def test_the_cifar_unet_counts_its_published_bit_operations(
    weight_bits: int, activation_bits: int, gbops: float
) -> None:
    model = cifar_unet()
    explicit_attention(model)
    declare(model, weight_bits, activation_bits)
    counter = count_unet(model)
    assert counter.macs == 6_221_856_768
    assert counter.bops / 1e9 == pytest.approx(gbops, abs=0.005)


def test_explicit_attention_costs_what_the_hidden_kernel_costs() -> None:
    plain, explicit = cifar_unet(), cifar_unet()
    explicit_attention(explicit)
    assert tiny.macs_of(count_unet(explicit), "matmul") == tiny.macs_of(count_unet(plain), "matmul")


def test_the_size_of_the_cifar_unet_follows_the_bits() -> None:
    model = cifar_unet()
    assert size_bytes(model) == 4 * PUBLIC_CHECKPOINT_PARAMETERS  # 143.0 MB
    assert [round(PUBLIC_CHECKPOINT_PARAMETERS * bits / 8e6, 1) for bits in (32, 8, 4)] == [143.0, 35.7, 17.9]
    weights = 35_691_264  # in 113 layers; 55,043 biases and norm parameters stay at 32 bits
    for bits in (8, 4):
        quantised = cifar_unet()
        declare(quantised, bits, 8)
        assert size(quantised).weights == weights * bits // 8
        assert size(quantised).other == 4 * (PUBLIC_CHECKPOINT_PARAMETERS - weights)


def test_mobilenet_counts_its_published_macs_and_bit_operations() -> None:
    with META:
        model = torchvision.models.mobilenet_v2(weights=None).eval()
    x = torch.zeros(1, 3, 224, 224, device=META)
    counter = count(model, x)
    assert counter.macs == 300_774_272
    assert counter.layers["features.0.0"].macs == 10_838_016
    declare(model, 4, 4)
    assert count(model, x).bops / 1e9 == pytest.approx(4.812, abs=0.0005)
    assert size(model).weights == 3_469_760 // 2
    model.features[0][0].activation_bits = 32
    assert count(model, x).bops / 1e9 == pytest.approx(6.026, abs=0.0005)
    assert count(model, x).unquantised() == ["features.0.0"]


def test_stable_diffusion_counts_cross_attention_over_the_prompt() -> None:
    with META:
        model = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    arguments = torch.zeros(1, 4, 64, 64), torch.zeros(1), torch.zeros(1, 77, 768)
    counter = count(model, *(a.to(META) for a in arguments))
    assert counter.macs / 1e9 == pytest.approx(401.637, abs=0.0005)
    assert (counter.macs - tiny.macs_of(counter, "matmul")) / 1e9 == pytest.approx(338.611, abs=0.0005)


def test_dit_counts_its_published_macs() -> None:
    with META:
        model = DiTTransformer2DModel(
            num_attention_heads=16,
            attention_head_dim=72,
            in_channels=4,
            out_channels=8,
            num_layers=28,
            sample_size=32,
            num_embeds_ada_norm=1000,
        )
    label = torch.zeros(1, dtype=torch.long, device=META)
    counter = count(model, torch.zeros(1, 4, 32, 32, device=META), torch.zeros(1, device=META), label)
    embedders = [cost.macs for name, cost in counter.layers.items() if "timestep_embedder" in name]
    one = sum(embedders) // 28  # diffusers embeds the time step afresh in every block, the original once
    assert (counter.macs - 27 * one) / 1e9 == pytest.approx(118.62, abs=0.005)


def test_macs_follow_hand_arithmetic_for_every_kind_of_layer() -> None:
    cases: list[tuple[nn.Module, tuple[int, ...], int]] = [
        (nn.Conv1d(4, 6, 3), (2, 4, 10), 2 * 6 * 8 * 4 * 3),
        (nn.Conv2d(4, 6, 3, groups=2, stride=2, padding=1), (2, 4, 8, 8), 2 * 6 * 16 * 2 * 9),
        (nn.Conv3d(1, 2, 2), (1, 1, 3, 3, 3), 2 * 8 * 8),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), (1, 4, 5, 5), 4 * 25 * 6 * 4),
        (nn.Linear(5, 7), (2, 3, 5), 2 * 3 * 7 * 5),
    ]
    for layer, shape, macs in cases:
        assert count(nn.Sequential(layer), torch.zeros(shape)).macs == macs


def test_bits_are_declared_or_the_width_of_the_dtype() -> None:
    half = count(nn.Linear(4, 4).bfloat16(), torch.zeros(1, 4, dtype=torch.bfloat16))
    assert half.bops == 16 * 16 * 16
    weights_only = count(Declared(nn.Linear(4, 4).half(), 4, 32), torch.zeros(1, 4, dtype=torch.float16))
    assert weights_only.bops == 16 * 4 * 16
    assert weights_only.unquantised() == [""]


def test_a_layer_that_never_runs_costs_nothing_and_one_that_runs_twice_costs_twice() -> None:
    model = nn.ModuleDict({"used": nn.Linear(4, 4), "skipped": nn.Linear(4, 4)})
    with counting(model) as counter:
        model["used"](torch.zeros(3, 4))
        model["used"](torch.zeros(3, 4))
    assert set(counter.layers) == {"used"}
    assert counter.layers["used"].calls == 2
    assert counter.per_image(3).macs == 2 * 16
    assert counter.per_image(3).bops == 2 * 16 * 1024


def test_cost_per_image_does_not_depend_on_the_batch() -> None:
    model = cifar_unet()
    assert count_unet(model, batch=4).per_image(4) == count_unet(model).per_image(1)


def test_no_hook_is_left_behind_even_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(RuntimeError), counting(model):
        model(torch.zeros(1, 5))
    assert hooks_left(model) == 0
    with counting(model) as counter:
        assert hooks_left(model) > 0
    model(torch.zeros(1, 4))
    assert hooks_left(model) == counter.macs == 0


def test_weights_are_packed_and_quantiser_state_is_stored_too() -> None:
    layer = Declared(nn.Linear(3, 3), 3, 8)
    layer.register_buffer("step", torch.ones(3))
    layer.register_buffer("scratch", torch.ones(100), persistent=False)
    assert size(layer).weights == math.ceil(9 * 3 / 8)
    assert size(layer).other == 4 * 3 + 4 * 3  # bias and steps; what is not saved has no size


def test_a_shared_weight_is_stored_once() -> None:
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    assert size_bytes(nn.Sequential(first, second)) == 4 * 16


@pytest.mark.parametrize(("guidance_scale", "per_step"), [(1.0, 1), (3.0, 2)])
def test_network_evaluations_per_image_are_the_steps_and_guidance_doubles_them(
    guidance_scale: float, per_step: int
) -> None:
    model, calls = tiny.class_model(guidance_scale), CallCounter()
    with observing(model, calls), counting(model.denoiser) as counter:
        model.generate([1, 2], None, tiny.DDIM)
    once = count(model.denoiser, torch.zeros(1, 1, 8, 8), torch.zeros(1), torch.zeros(1, dtype=torch.long))
    assert calls.per_image(2) == per_step * tiny.DDIM.steps
    assert counter.per_image(2).macs == calls.per_image(2) * once.macs


class Stopwatch:
    """A clock that only moves when work is done."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def work(self, name: str, durations: list[float]):
        each = itertools.chain(durations)

        def run() -> None:
            self.log.append(name)
            self.now += next(each)

        return run

    def __call__(self) -> float:
        return self.now


def test_paired_latency_is_the_median_of_alternating_pairs_after_the_warm_up() -> None:
    watch = Stopwatch()
    first = watch.work("a", [100, 1, 2, 3, 4])
    second = watch.work("b", [100, 2, 2, 3, 2])
    latency = paired_latency(first, second, repeats=4, warmup=1, clock=watch)
    assert "".join(watch.log) == "ab" + "ab" + "ba" + "ab" + "ba"
    assert (latency.first_s, latency.second_s) == (2.5, 2.0)
    assert latency.first_spread_s == pytest.approx(3.25 - 1.75)
    assert latency.ratio == pytest.approx(1.0)  # of 2, 1, 1, 1/2
    assert latency.ratio_spread == pytest.approx(1.25 - 0.875)
    assert latency.drift == pytest.approx(3.5 / 1.5 - 1)


def test_a_steady_machine_shows_no_drift_and_one_pair_is_refused() -> None:
    watch = Stopwatch()
    latency = paired_latency(watch.work("a", [1.0] * 4), watch.work("b", [2.0] * 4), 3, 1, clock=watch)
    assert (latency.drift, latency.ratio) == (0, 2.0)
    with pytest.raises(RequestError, match="repeats=1"):
        paired_latency(int, int, repeats=1, warmup=0)


def test_peak_memory_of_a_chain_is_the_closed_form() -> None:
    with peak_memory("cpu") as peak:
        x = torch.zeros(1000)  # 4,000
        y = x + 1  # 8,000
        del x
        z = torch.cat([y, y])  # 12,000: y and twice its size
        del y
        w = z.view(2, 1000)  # a view holds no memory of its own
        del z, w
        torch.zeros(500)
    assert peak.bytes == 12_000


def test_peak_memory_includes_parameters_and_what_was_there_before() -> None:
    model = nn.Sequential(nn.Linear(10, 20, bias=False), nn.Linear(20, 10, bias=False)).requires_grad_(False)
    x = torch.zeros(5, 10)
    with peak_memory("cpu", model) as peak, torch.inference_mode():
        model(x)
    # weights, the input, and both outputs: a hidden layer is alive until its successor is computed
    assert peak.bytes == 4 * (200 + 200 + 50 + 100 + 50)
    with peak_memory("cpu", model) as idle:
        pass
    assert idle.bytes == 4 * 400
