"""Which layer gets which grid: roles checked against what really flows through the networks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import tiny
from parediff.cost import counting
from parediff.errors import RequestError
from parediff.quantization.grid import SILU_MINIMUM
from parediff.quantization.layers import LAYERS, QuantizedLayer, QuantizedMatmul, SplitQuantizedLayer
from parediff.quantization.placement import Placement, choices, place
from parediff.quantization.quantizer import Quantizer, bypassed
from parediff.quantization.roles import roles, skip_borders


class Classifier(nn.Module):
    """A plain convolutional network with a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 8, 3, padding=1))
        self.body = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((x + self.body(x)).mean((2, 3)))


def rule(**changes: Any) -> Placement:
    standard: dict[str, Any] = {
        "weight_bits": 4,
        "activation_bits": 4,
        "ends": "eight_bit",
        "time_layers": "eight_bit",
        "split": "shortcuts",
    }
    return Placement(**(standard | changes))


def quantize(network: nn.Module, placement: Placement) -> list[str]:
    return place(network, placement, lambda slot: Quantizer(slot.grid, axis=slot.axis, channels=slot.groups))


def call_unet(network: Any, x: Tensor) -> Tensor:
    return network(x, torch.tensor([7] * len(x)), return_dict=False)[0]


def call_conditional(network: Any, x: Tensor) -> Tensor:
    text = torch.randn(len(x), 5, 12, generator=torch.Generator().manual_seed(3))
    return network(x, torch.tensor([7] * len(x)), encoder_hidden_states=text, return_dict=False)[0]


def call_transformer(network: Any, x: Tensor) -> Tensor:
    labels = torch.arange(len(x))
    return network(x, torch.tensor([7] * len(x)), class_labels=labels, return_dict=False)[0]


def scale_shift_unet() -> UNet2DModel:
    return tiny.unet(resnet_time_scale_shift="scale_shift", downsample_type="resnet", upsample_type="resnet")


Network = tuple[Callable[[], nn.Module], Callable[[Any, Tensor], Tensor], tuple[int, ...]]
NETWORKS: dict[str, Network] = {
    "unet": (tiny.unet, call_unet, (2, 1, 8, 8)),
    "scale_shift_unet": (scale_shift_unet, call_unet, (2, 1, 8, 8)),
    "conditional_unet": (tiny.conditional_unet, call_conditional, (2, 4, 8, 8)),
    "transformer": (tiny.transformer, call_transformer, (2, 4, 8, 8)),
    "classifier": (Classifier, lambda network, x: network(x), (2, 3, 6, 6)),
}
ENDS = {
    "unet": ("conv_in", "conv_out"),
    "scale_shift_unet": ("conv_in", "conv_out"),
    "conditional_unet": ("conv_in", "conv_out"),
    "transformer": ("pos_embed.proj", "proj_out_2"),
    "classifier": ("stem.0", "head"),
}


@pytest.fixture(params=NETWORKS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def built(name: str) -> tuple[Any, Callable[[Any, Tensor], Tensor], Tensor]:
    build, call, shape = NETWORKS[name]
    return build().eval(), call, torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3


@torch.no_grad()
def inputs(network: nn.Module, call: Callable[[Any, Tensor], Tensor], x: Tensor) -> dict[str, Tensor]:
    """What every convolution and linear reads."""
    seen: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for path, module in network.named_modules():
            if isinstance(module, LAYERS):
                hook = module.register_forward_pre_hook(lambda _, args, path=path: seen.__setitem__(path, args[0]))
                stack.callback(hook.remove)
        call(network, x)
    return seen


def test_layers_marked_as_fed_by_silu_are_those_whose_input_never_falls_below_its_minimum(name: str) -> None:
    network, call, x = built(name)
    marked = {role.path for role in roles(network) if role.after_silu}
    seen = inputs(network, call, x)
    bounded = {path for path, value in seen.items() if SILU_MINIMUM - 1e-6 <= value.min() < 0}
    assert marked
    assert all(seen[path].min() >= SILU_MINIMUM - 1e-6 for path in marked)
    of_cosines, of_gelu = {"time_embedding.linear_1"}, {path for path in seen if path.endswith("ff.net.2")}
    assert bounded - marked - {path for path in seen if "to_out" in path} <= of_cosines | of_gelu


def test_layers_marked_as_of_time_only_are_those_that_do_not_see_the_image(name: str) -> None:
    network, call, x = built(name)
    marked = {role.path for role in roles(network) if role.position == "time"}
    first, second = inputs(network, call, x), inputs(network, call, x + 1)
    blind = {path for path in first if torch.equal(first[path], second[path])}
    of_text = {path for path in blind if path.endswith(("attn2.to_k", "attn2.to_v"))}
    assert marked == blind - of_text


def test_first_and_last_are_where_the_image_enters_and_leaves(name: str) -> None:
    network, *_ = built(name)
    ends = {role.position: role.path for role in roles(network) if role.position in ("first", "last")}
    assert (ends["first"], ends["last"]) == ENDS[name]


class Concatenations(TorchFunctionMode):
    """Channels of the first of every two tensors joined along the channels, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.borders: list[int] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is torch.cat and kwargs.get("dim") == 1 and len(args[0]) == 2:
            self.borders.append(args[0][0].shape[1])
        return function(*args, **kwargs)


@pytest.mark.parametrize("name", ["unet", "scale_shift_unet", "conditional_unet", "three_levels"])
def test_borders_are_where_the_network_really_concatenates(name: str) -> None:
    if name == "three_levels":
        network: Any = tiny.unet(
            block_out_channels=(8, 16, 24),
            layers_per_block=2,
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        )
        call, x = call_unet, torch.randn(1, 1, 8, 8)
    else:
        network, call, x = built(name)
    with torch.no_grad(), Concatenations() as seen:
        call(network, x)
    borders = skip_borders(network)
    expected = [path for path in borders if ".resnets." in path]
    order = [path for path, _ in network.named_modules() if path in expected]
    order.sort(key=lambda path: [int(part) for part in path.split(".") if part.isdigit()])
    assert [borders[path] for path in order] == seen.borders


def test_quantisers_that_are_not_calibrated_change_nothing(name: str) -> None:
    network, call, x = built(name)
    with torch.no_grad():
        before = call(network, x)
        paths = quantize(network, rule(attention="full"))
        assert torch.equal(call(network, x), before)
    assert len(paths) == sum(isinstance(m, QuantizedLayer | SplitQuantizedLayer) for m in network.modules())


def test_32_bits_change_nothing_even_when_calibrated_and_folded(name: str) -> None:
    network, call, x = built(name)
    with torch.no_grad():
        before = call(network, x)
        quantize(network, rule(attention="full"))
        for module in network.modules():
            if isinstance(module, Quantizer):
                module.grid = type(module.grid)(32, module.grid.kind)
                module.fill(torch.full_like(module.source.step, 0.1))
        for module in network.modules():
            if isinstance(module, QuantizedLayer | SplitQuantizedLayer):
                module.fold()
        assert torch.equal(call(network, x), before)


def test_switching_quantisers_off_gives_the_original_output_back(name: str) -> None:
    network, call, x = built(name)
    with torch.no_grad():
        before = call(network, x)
        quantize(network, rule(attention="full"))
        for module in network.modules():
            if isinstance(module, Quantizer):
                module.fill(torch.full_like(module.source.step, 0.1))
        assert not torch.equal(call(network, x), before)
        with bypassed(network):
            assert torch.equal(call(network, x), before)


def test_special_layers_follow_their_options() -> None:
    def bits(**options: Any) -> dict[str, tuple[int, int]]:
        chosen = choices(tiny.unet(), rule(**options))
        return {choice.path: (choice.weight.bits, choice.activation.bits) for choice in chosen}

    standard = bits()
    assert standard["conv_in"] == standard["conv_out"] == (8, 8)
    assert standard["time_embedding.linear_1"] == (8, 8)
    assert standard["mid_block.resnets.0.conv1"] == (4, 4)
    assert set(bits(ends="same", time_layers="same").values()) == {(4, 4)}
    without = bits(ends="full", time_layers="full")
    assert not {"conv_in", "conv_out", "time_embedding.linear_1", "mid_block.resnets.0.time_emb_proj"} & set(without)
    assert bits(weight_bits=10)["conv_in"] == (10, 8)
    assert bits(activation_bits=32)["conv_in"] == (8, 32)


def test_grids_follow_what_feeds_a_layer() -> None:
    chosen = {choice.path: choice for choice in choices(tiny.unet(), rule(weight_grid="affine"))}
    assert chosen["mid_block.resnets.0.conv1"].activation.kind == "shifted"
    assert chosen["conv_out"].activation.kind == "shifted"
    assert chosen["mid_block.attentions.0.to_q"].activation.kind == "affine"
    assert {choice.weight.kind for choice in chosen.values()} == {"affine"}


@pytest.mark.parametrize(("split", "count"), [("none", 0), ("shortcuts", 4), ("all", 8)])
def test_only_layers_behind_a_concatenation_are_split(split: str, count: int) -> None:
    network = tiny.unet()
    quantize(network, rule(split=split))
    found = [path for path, module in network.named_modules() if isinstance(module, SplitQuantizedLayer)]
    assert len(found) == count
    assert all(path.startswith("up_blocks") for path in found)


def test_products_of_attention_have_an_unsigned_grid_for_the_softmax() -> None:
    network = tiny.unet()
    quantize(network, rule(attention="same", softmax_bits=16))
    products = {path: module for path, module in network.named_modules() if isinstance(module, QuantizedMatmul)}
    assert len(products) == 8
    for path, product in products.items():
        grid = product.a_quantizer.grid
        assert (grid.kind, grid.bits) == (("unsigned", 16) if path.endswith("pv") else ("affine", 4))
        assert product.b_quantizer.grid.bits == 4


def test_attention_in_full_precision_is_left_as_it_is() -> None:
    network = tiny.unet()
    before = {path: type(module) for path, module in network.named_modules() if path.endswith("attentions.0")}
    quantize(network, rule(attention="full"))
    modules = dict(network.named_modules())
    assert {path: type(modules[path]) for path in before} == before
    assert before
    assert not any("products" in path for path in modules)


def test_a_layer_known_under_two_names_is_wrapped_once() -> None:
    network = nn.Module()
    network.first, network.again = (layer := nn.Linear(4, 4)), layer  # type: ignore[assignment]
    network.other = nn.Linear(4, 4)
    quantize(network, rule())
    assert network.first is network.again
    assert isinstance(network.first, QuantizedLayer)
    assert isinstance(network.first.layer, nn.Linear)


def test_patterns_keep_layers_and_products_in_full_precision_and_must_match_something() -> None:
    network = tiny.unet()
    paths = quantize(network, rule(skip=("mid_block",)))
    assert not any(path.startswith("mid_block") for path in paths if not path.endswith(("qk", "pv")))
    product = network.get_submodule("mid_block.attentions.0.products.qk")
    assert product.a_quantizer.grid.identity
    assert product.b_quantizer.grid.identity
    with pytest.raises(RequestError, match="skip=no_such_layer"):
        quantize(tiny.unet(), rule(skip=("no_such_layer",)))


def test_inputs_can_have_an_interval_for_each_channel_or_group_of_channels() -> None:
    network = tiny.unet()
    quantize(network, rule(activation_groups=4))
    convolution = network.get_submodule("mid_block.resnets.0.conv1").input_quantizer
    assert (convolution.axis, convolution.channels) == (1, 4)
    assert network.get_submodule("mid_block.attentions.0.to_q").input_quantizer.axis == -1
    assert network.get_submodule("conv_in").input_quantizer.channels == 1
    with pytest.raises(RequestError, match=r"activation_groups=3: .*time_embedding"):
        quantize(tiny.unet(), rule(activation_groups=3))


def test_a_layer_that_runs_before_the_time_is_known_says_so() -> None:
    assert [role.path for role in roles(tiny.transformer()) if role.timeless] == ["pos_embed.proj"]
    assert not [role.path for role in roles(tiny.unet()) if role.timeless]


def test_a_network_is_quantised_once() -> None:
    network = tiny.unet()
    quantize(network, rule())
    with pytest.raises(RequestError, match="one quantising method at a time"):
        quantize(network, rule())


def test_a_rule_that_changes_nothing_is_refused() -> None:
    with pytest.raises(RequestError, match="weight_bits"):
        quantize(tiny.unet(), rule(weight_bits=32, activation_bits=32))
    with pytest.raises(RequestError):
        quantize(nn.Sequential(nn.ReLU()), rule())


GIGA = {
    ("same", 8, 8): 398.20,
    ("same", 6, 6): 223.99,
    ("same", 4, 8): 204.47,
    ("same", 4, 4): 99.55,
    ("eight_bit", 8, 8): 398.20,
    ("eight_bit", 6, 6): 224.19,
    ("eight_bit", 4, 8): 204.70,
    ("eight_bit", 4, 4): 99.89,
}


@pytest.fixture(scope="module")
def cifar10_layers() -> tuple[UNet2DModel, dict[str, int]]:
    """The DDPM CIFAR-10 UNet without memory, and the multiplications of each of its layers."""
    with torch.device("meta"):
        network = UNet2DModel(
            sample_size=32,
            block_out_channels=(128, 256, 256, 256),
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=None,
            downsample_padding=0,
            flip_sin_to_cos=False,
            freq_shift=1,
        )
        with torch.no_grad(), counting(network) as counter:
            network(torch.zeros(1, 3, 32, 32), torch.zeros(1))
    return network, {path: cost.macs for path, cost in counter.layers.items()}


@pytest.mark.parametrize(("ends", "weights", "activations"), GIGA)
def test_the_published_bit_operations_of_the_cifar10_unet_can_be_asked_for(
    cifar10_layers: tuple[UNet2DModel, dict[str, int]], ends: Any, weights: int, activations: int
) -> None:
    network, macs = cifar10_layers
    asked = rule(weight_bits=weights, activation_bits=activations, ends=ends, time_layers="same", split="none")
    chosen = choices(network, asked)
    assert len(chosen) == 113
    operations = sum(macs[choice.path] * choice.weight.bits * choice.activation.bits for choice in chosen)
    products = sum(count for path, count in macs.items() if path not in {choice.path for choice in chosen})
    assert products == 167_903_232
    giga = (operations + products * activations**2) / 1e9
    assert giga == pytest.approx(GIGA[ends, weights, activations], abs=0.005)


def test_products_are_told_by_their_place_and_operand() -> None:
    met: list[tuple[str, str]] = []

    def make(slot: Any) -> Quantizer:
        met.append((slot.path, slot.operand))
        return Quantizer(slot.grid, axis=slot.axis, channels=slot.groups)

    network = tiny.unet()
    products = [path for path in place(network, rule(attention="same"), make) if path.endswith((".qk", ".pv"))]
    assert products
    assert [entry for entry in met if entry[0] in products] == [(path, name) for path in products for name in "ab"]
