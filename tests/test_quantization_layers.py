"""Layers on quantised operands: against integer arithmetic, and folded against unfolded."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tiny
from parediff.quantization.grid import Grid
from parediff.quantization.layers import QuantizedLayer, QuantizedMatmul, SplitQuantizedLayer
from parediff.quantization.quantizer import Quantizer
from parediff.quantization.samples import Samples
from parediff.quantization.search import MinMax

SHAPES = {
    "conv2d": (lambda: nn.Conv2d(6, 8, 3, padding=1), (2, 6, 7, 7)),
    "strided": (lambda: nn.Conv2d(6, 8, 3, stride=2, padding=0), (2, 6, 7, 7)),
    "grouped": (lambda: nn.Conv2d(6, 6, 3, padding=1, groups=3, bias=False), (2, 6, 7, 7)),
    "conv1d": (lambda: nn.Conv1d(6, 8, 1), (2, 6, 9)),
    "linear": (lambda: nn.Linear(6, 8), (2, 5, 6)),
}


def fill(quantizer: Quantizer, x: torch.Tensor) -> Quantizer:
    step, zero = MinMax().fit(Samples.of(x, quantizer.axis), quantizer.grid)
    if quantizer.axis is None:
        step, zero = step[0], None if zero is None else zero[0]
    quantizer.fill(step * 0.8, zero)
    return quantizer


def quantized(layer: nn.Module, x: torch.Tensor, activation: str = "affine", weight: str = "symmetric"):
    weights = fill(Quantizer(Grid(4, weight), axis=0, channels=layer.weight.shape[0]), layer.weight)
    return QuantizedLayer(layer, weights, fill(Quantizer(Grid(4, activation)), x))


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("activation", ["symmetric", "affine", "unsigned"])
@pytest.mark.parametrize("weight", ["symmetric", "affine"])
def test_the_simulated_layer_is_the_integer_layer_times_its_steps(name, activation, weight):
    torch.manual_seed(0)
    build, shape = SHAPES[name]
    layer, x = build(), torch.randn(shape)
    simulated = quantized(layer, x, activation, weight)
    a, w = tiny.integers(simulated.input_quantizer, x), tiny.integers(simulated.weight_quantizer, layer.weight)
    zero_a = torch.tensor(0.0) if a.zero_point is None else a.zero_point
    zero_w = torch.tensor(0.0) if w.zero_point is None else w.zero_point
    # int64 sums of products of zero-point-corrected integers; then one multiplication per output channel
    sums = integer_layer(layer, a.integers.long() - zero_a.long(), w.integers.long() - zero_w.long())
    along = (-1,) if name == "linear" else (-1, *[1] * (x.ndim - 2))
    expected = sums.double() * a.step.double() * w.step.flatten().double().view(along)
    if layer.bias is not None:
        expected = expected + layer.bias.double().view(along)
    got = simulated(x).double()
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


def integer_layer(layer, x, weight):
    """In int64, by unfolding: torch has no integer convolution on every build."""
    if isinstance(layer, nn.Linear):
        return x @ weight.T
    if isinstance(layer, nn.Conv1d):
        return torch.einsum("bcn,oc->bon", x, weight[:, :, 0])
    padding, stride, size = layer.padding[0], layer.stride[0], layer.kernel_size[0]
    patches = F.pad(x, [padding] * 4).unfold(2, size, stride).unfold(3, size, stride)
    outputs = []
    for part, filters in zip(patches.chunk(layer.groups, 1), weight.chunk(layer.groups, 0), strict=True):
        outputs.append(torch.einsum("bchwij,ocij->bohw", part, filters))
    return torch.cat(outputs, 1)


@pytest.mark.parametrize("name", SHAPES)
def test_folding_changes_speed_and_nothing_else(name):
    build, shape = SHAPES[name]
    layer, x = build(), torch.randn(shape)
    simulated = quantized(layer, x)
    before, keys = simulated(x), list(simulated.state_dict())
    weight = layer.weight.detach().clone()
    simulated.fold()
    assert torch.equal(simulated(x), before)
    assert list(simulated.state_dict()) == keys
    assert torch.equal(simulated.state_dict()["layer.weight"], weight)


def test_loading_a_state_undoes_the_fold():
    x = torch.randn(3, 6)
    first, second = quantized(nn.Linear(6, 8), x), quantized(nn.Linear(6, 8), x)
    second.fold()
    second.load_state_dict(first.state_dict())
    assert torch.equal(second(x), first(x))


def test_a_wrapped_layer_declares_its_bits_and_shows_its_weight():
    layer = nn.Conv2d(3, 4, 3)
    x = torch.randn(1, 3, 5, 5)
    bare = QuantizedLayer(layer, Quantizer(Grid(4)), Quantizer(Grid(8)))
    assert (bare.weight_bits, bare.activation_bits) == (32, 32)
    assert torch.equal(bare(x), layer(x))
    full = quantized(layer, x)
    assert (full.weight_bits, full.activation_bits) == (4, 4)
    assert full.weight is layer.weight
    assert full.bias is layer.bias


def test_padding_modes_of_the_layer_are_kept():
    layer, x = nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), torch.randn(1, 2, 6, 6)
    simulated = quantized(layer, x)
    rounded_x, rounded_w = simulated.input_quantizer(x), simulated.weight_quantizer(layer.weight)
    assert torch.equal(simulated(x), F.conv2d(F.pad(rounded_x, [1] * 4, mode="reflect"), rounded_w, layer.bias))


def test_gradients_reach_the_weight_and_the_input():
    layer, x = nn.Linear(6, 4), torch.randn(3, 6, requires_grad=True)
    quantized(layer, x.detach())(x).sum().backward()
    assert layer.weight.grad.abs().sum() > 0
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("folded", [False, True])
def test_a_split_layer_with_equal_steps_is_the_unsplit_one(folded):
    layer, x = nn.Conv2d(10, 4, 1), torch.randn(2, 10, 5, 5)
    whole = quantized(layer, x)
    parts = [(Quantizer(Grid(4), axis=0, channels=4), Quantizer(Grid(4, "affine"))) for _ in range(2)]
    for weight, activation in parts:
        weight.load_state_dict(whole.weight_quantizer.state_dict())
        activation.load_state_dict(whole.input_quantizer.state_dict())
    split = SplitQuantizedLayer(layer, 7, (parts[0][0], parts[1][0]), (parts[0][1], parts[1][1]))
    if folded:
        split.fold()
    assert torch.equal(split(x), whole(x))
    assert (split.weight_bits, split.activation_bits) == (4, 4)


def test_a_split_layer_is_better_where_the_two_parts_differ_in_range():
    layer, x = nn.Conv2d(8, 4, 1), torch.randn(2, 8, 5, 5)
    x[:, 5:] *= 0.02
    with torch.no_grad():
        layer.weight[:, 5:] *= 50
    halves = x[:, :5], x[:, 5:]
    split = SplitQuantizedLayer(
        layer,
        5,
        tuple(fill(Quantizer(Grid(4), axis=0, channels=4), w) for w in (layer.weight[:, :5], layer.weight[:, 5:])),
        tuple(fill(Quantizer(Grid(4, "affine")), half) for half in halves),
    )
    exact, whole = layer(x), quantized(layer, x)
    assert (split(x) - exact).pow(2).mean() < 0.2 * (whole(x) - exact).pow(2).mean()


@pytest.mark.parametrize("border", [0, 10, 12])
def test_a_border_outside_the_channels_is_refused(border):
    pair = Quantizer(Grid(4)), Quantizer(Grid(4))
    with pytest.raises(ValueError, match="cannot be split"):
        SplitQuantizedLayer(nn.Conv2d(10, 4, 1), border, pair, pair)


def test_what_is_no_layer_is_refused():
    with pytest.raises(TypeError, match="GroupNorm cannot be quantised"):
        QuantizedLayer(nn.GroupNorm(2, 4), Quantizer(Grid(4)), Quantizer(Grid(4)))


def test_a_product_of_activations_rounds_both_operands():
    a, b = torch.rand(2, 3, 4, 5), torch.randn(2, 3, 5, 6)
    product = QuantizedMatmul(fill(Quantizer(Grid(8, "unsigned")), a), fill(Quantizer(Grid(4)), b))
    assert product.is_matmul
    assert (product.a_bits, product.b_bits) == (8, 4)
    assert torch.equal(product(a, b), product.a_quantizer(a) @ product.b_quantizer(b))
