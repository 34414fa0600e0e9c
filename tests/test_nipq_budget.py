"""The differentiable budget against counted operations and hand arithmetic."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import tiny
from parediff.cost import counting
from parediff.errors import RequestError
from parediff.models.classifiers.model import ClassifierModel
from parediff.models.diffusion.door import Call
from parediff.quantization.allocation import allocate, project, sensitivity
from parediff.quantization.budget import (
    AverageBits,
    BitOperations,
    Constraint,
    average_bits,
    bit_operations,
    operands_of,
    reachable_gbops,
)
from parediff.quantization.noise import BitRange, NoiseQuantizer, Uniform, kind_of, operands, products, quantizers
from test_nipq_training import nipq


def pseudo_quantised(network: nn.Module, calls: list[Tensor], *, image_input: bool = False) -> nn.Module:
    """As after calibration, without training."""
    model, method = ClassifierModel(network.eval(), name="small"), nipq(image_input=image_input, bits_max=14)
    method.prepare(model)  # type: ignore[arg-type]
    method.calibrate(model, [model.call(x) for x in calls])  # type: ignore[arg-type]
    return network


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(216, 10))


@pytest.fixture(scope="module")
def mobilenet() -> Callable[[bool], nn.Module]:
    from torchvision.models import mobilenet_v2

    def build(image_input: bool) -> nn.Module:
        torch.manual_seed(0)
        return pseudo_quantised(mobilenet_v2(weights=None), [torch.rand(1, 3, 224, 224)], image_input=image_input)

    return build


@pytest.mark.parametrize(
    ("image_input", "gbops"), [pytest.param(True, 4.812388352, marks=pytest.mark.slow), (False, 6.026246144)]
)
def test_n9_four_bits_everywhere_cost_mobilenet_what_was_published(
    mobilenet: Callable[[bool], nn.Module], image_input: bool, gbops: float
) -> None:
    network = mobilenet(image_input)
    for quantizer in quantizers(network):
        if quantizer.on:
            quantizer.fix(4)
    assert float(bit_operations(network)) / 1e9 == pytest.approx(gbops, rel=1e-6)
    with counting(network) as counter, torch.no_grad():
        network(torch.rand(2, 3, 224, 224))
    assert counter.per_image(2).bops == pytest.approx(float(bit_operations(network)), rel=1e-6)


def test_n9_every_learned_width_of_weights_and_activations_gets_a_gradient() -> None:
    network = pseudo_quantised(small(), [torch.rand(2, 1, 8, 8)])
    for quantizer in quantizers(network):
        quantizer.theta_bits.requires_grad_(True)
    bit_operations(network).backward()
    first, second, last = products(network).values()
    macs = [64 * 4 * 9, 36 * 6 * 36, 2160]
    assert [int(operands(product)[0].macs) for product in (first, second, last)] == macs
    slope = 3.0
    assert float(operands(first)[0].theta_bits.grad) == pytest.approx(macs[0] * 32 * slope)
    assert operands(first)[1].theta_bits.grad is None
    for product, count in ((second, macs[1]), (last, macs[2])):
        for operand in operands(product):
            assert float(operand.theta_bits.grad) == pytest.approx(count * 8 * slope)


def test_n9_mixed_widths_and_attention_are_counted_like_the_reported_cost() -> None:
    model = tiny.unconditional_model()
    method = nipq(skip=("time_embedding",))
    method.prepare(model)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([10, 500])
    method.calibrate(model, [Call(x, t, {}, 0)])
    for index, quantizer in enumerate(quantizers(model.denoiser)):
        if quantizer.on:
            quantizer.fix(2 + index % 9)
    with counting(model.denoiser) as counter, torch.no_grad():
        model.predict(x, t, {})
    assert counter.per_image(2).bops == pytest.approx(float(bit_operations(model.denoiser)), rel=1e-6)
    assert counter.layers["time_embedding.linear_1"].weight_bits == 32


def test_n10_weights_and_activations_have_terms_of_their_own() -> None:
    network = pseudo_quantised(small(), [torch.rand(2, 1, 8, 8)])
    weights, activations = operands_of(network)
    budget = AverageBits(network, 4.0, strength=1.0, unit=2**23)
    for quantizer in quantizers(network):
        quantizer.theta_bits.requires_grad_(True)
    before = budget._penalty_of(weights)
    for quantizer in activations:
        quantizer.theta_bits.data.fill_(-1.0)
    assert torch.equal(budget._penalty_of(weights), before)
    budget._penalty_of(weights).backward()
    assert all(quantizer.theta_bits.grad is None for quantizer in activations)


def test_n10_the_gradient_per_layer_is_its_share_of_elements() -> None:
    network = pseudo_quantised(small(), [torch.rand(2, 1, 8, 8)])
    for quantizer in quantizers(network):
        quantizer.theta_bits.requires_grad_(True)
    AverageBits(network, 4.0, strength=1.0, unit=2**23).penalty().backward()
    weights, activations = operands_of(network)
    assert [int(quantizer.elements) for quantizer in weights] == [36, 216, 2160]
    assert [int(quantizer.elements) for quantizer in activations] == [256, 216]
    for quantizer in weights + activations:
        per_bit = float(quantizer.theta_bits.grad) / 3.0  # type: ignore[arg-type]
        assert per_bit == pytest.approx(int(quantizer.elements) / 2**23, rel=1e-6)


def test_n13_at_the_target_the_penalty_pulls_nowhere() -> None:
    network = pseudo_quantised(small(), [torch.rand(2, 1, 8, 8)])
    for quantizer in quantizers(network):
        quantizer.theta_bits.requires_grad_(True)
    for budget in (
        AverageBits(network, 8.0, strength=1.0, unit=None),
        BitOperations(network, float(bit_operations(network).detach()) / 1e9, strength=3.0, unit=None),
    ):
        budget.penalty().backward()
        for quantizer in quantizers(network):
            gradient = quantizer.theta_bits.grad
            assert gradient is None or abs(float(gradient)) < 1e-9


def test_the_penalty_pulls_from_both_sides() -> None:
    network = pseudo_quantised(small(), [torch.rand(2, 1, 8, 8)])
    theta = operands_of(network)[0][1].theta_bits.requires_grad_(True)
    for target, sign in ((4.0, 1), (11.0, -1)):
        theta.grad = None
        AverageBits(network, target, strength=1.0, unit=None).penalty().backward()
        assert float(theta.grad) * sign > 0  # type: ignore[arg-type]


@pytest.mark.parametrize("target", [1.0, 2.0, 14.0, 40.0])
def test_an_average_that_no_bits_reach_is_refused(target: float) -> None:
    network = pseudo_quantised(small(), [torch.rand(2, 1, 8, 8)])
    with pytest.raises(RequestError, match="target_bits"):
        AverageBits(network, target, strength=1.0, unit=None)


def test_operations_that_no_bits_reach_are_refused_with_what_can_be_reached() -> None:
    network = pseudo_quantised(small(), [torch.rand(2, 1, 8, 8)])
    low, high = reachable_gbops(network)
    macs = [64 * 4 * 9, 36 * 6 * 36, 2160]
    assert low == pytest.approx((macs[0] * 64 + (macs[1] + macs[2]) * 4) / 1e9)
    assert high == pytest.approx((macs[0] * 448 + (macs[1] + macs[2]) * 196) / 1e9)
    for target in (low / 2, high * 2):
        with pytest.raises(RequestError, match=r"target_gbops=.*above .* below"):
            BitOperations(network, target, strength=3.0, unit=None)


def test_the_average_weighs_layers_by_their_elements() -> None:
    network = pseudo_quantised(small(), [torch.rand(2, 1, 8, 8)])
    weights, _ = operands_of(network)
    for quantizer, bits in zip(weights, (8, 4, 2), strict=True):
        quantizer.fix(bits)
    assert average_bits(weights) == pytest.approx((36 * 8 + 216 * 4 + 2160 * 2) / 2412)


def test_the_grid_follows_the_values() -> None:
    assert kind_of(0.0, 3.0) == "unsigned"
    assert kind_of(-0.2784, 5.0) == "shifted"
    assert kind_of(-0.05, 0.05) == "symmetric"
    assert kind_of(-2.0, 3.0) == "symmetric"


def test_calibration_finds_relu_and_a_boundary_below_the_largest_weight() -> None:
    network = pseudo_quantised(small(), [torch.rand(4, 1, 8, 8)])
    _, second, last = products(network).values()
    assert operands(second)[1].kind == "unsigned"
    assert operands(last)[1].kind == "symmetric"
    largest = float(second.layer.weight.detach().abs().max())  # type: ignore[union-attr]
    assert 0.8 * largest < float(operands(second)[0].clip.detach()) <= 1.01 * largest


def test_a_layer_of_zeros_gets_a_boundary_that_can_move() -> None:
    network = small()
    nn.init.zeros_(network[2].weight)
    pseudo_quantised(network, [torch.rand(4, 1, 8, 8)])
    clip = operands(products(network)["2"])[0].clip
    assert float(clip.detach()) == pytest.approx(1.0)


def test_widths_are_projected_onto_an_average_and_onto_operations() -> None:
    for target, budget_of in ((4.0, AverageBits), (0.002, BitOperations)):
        network = pseudo_quantised(small(), [torch.rand(4, 1, 8, 8)])
        budget = budget_of(network, target, strength=1.0, unit=None)
        x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        allocate(network, budget, lambda network=network, x=x: network(x))
        assert budget.constraints() == [], "every width is held"
        spent = [average_bits(side) for side in operands_of(network)] if target == 4.0 else [budget.value()]
        assert all(0.98 * target <= value <= target for value in spent)


def test_the_operand_that_the_output_minds_most_keeps_the_most_bits() -> None:
    network = pseudo_quantised(small(), [torch.rand(4, 1, 8, 8)])
    budget = BitOperations(network, 0.002, strength=1.0, unit=None)
    constraint = budget.constraints()[0]
    minds = dict.fromkeys(constraint.quantizers, 1.0)
    favourite = operands(products(network)["2"])[0]
    project(constraint, minds | {favourite: 1e6})
    alike = [q.bits for q in constraint.quantizers if q is not favourite]
    assert favourite.bits > max(alike)


def test_sensitivity_is_the_change_of_the_output_and_leaves_the_widths_alone() -> None:
    network = pseudo_quantised(small(), [torch.rand(4, 1, 8, 8)])
    x = torch.rand(4, 1, 8, 8)
    learned = [q for q in quantizers(network) if q.learns]
    before = network(x)
    minds = sensitivity(learned, lambda: network(x))
    assert all(value > 0 for value in minds.values())
    assert torch.equal(network(x), before)
    assert all(q.learns for q in learned)


def held_at(network: nn.Module, bits: list[int]) -> list[NoiseQuantizer]:
    """The learned quantisers, with theta_b at these widths."""
    learned = [quantizer for quantizer in quantizers(network) if quantizer.learns]
    for quantizer, width in zip(learned, bits, strict=True):
        quantizer.theta_bits.data.fill_(quantizer.range.theta(min(max(width, 2.01), 13.99)))
    return learned


@pytest.mark.parametrize("learned", [[2] * 5, [14] * 5, [2, 14, 2, 14, 2], [14, 3, 3, 3, 14]])
def test_widths_below_the_budget_are_raised_and_above_it_lowered(learned: list[int]) -> None:
    network = pseudo_quantised(small(), [torch.rand(4, 1, 8, 8)])
    held_at(network, learned)
    x = torch.rand(4, 1, 8, 8)
    allocate(network, AverageBits(network, 6.0, strength=1.0, unit=None), lambda: network(x))
    assert all(0.98 * 6 <= average_bits(side) <= 6 for side in operands_of(network))


def constraint_of(sizes: list[int], widths: list[int], target: float) -> Constraint:
    """An average over values of so many quantisers, apart from any network."""
    found = []
    for bits in widths:
        found.append(NoiseQuantizer(BitRange(2, 14, min(max(bits, 2.01), 13.99)), Uniform()))
        found[-1].fill(torch.tensor(1.0), "symmetric")
    total = sum(sizes)
    return Constraint("target_bits", target, found, lambda bits: sum(map(int.__mul__, bits, sizes)) / total)


def test_a_wide_small_tensor_gives_its_bits_to_a_large_one_though_each_single_step_overspends() -> None:
    """512 values at 3 bits beside 8 at 14 spend 3.17; raising the large one has to lower the small one by 10."""
    few = constraint_of([512, 8], [3, 14], 4.0)
    project(few, dict.fromkeys(few.quantizers, 1.0))
    assert [quantizer.bits for quantizer in few.quantizers] == [4, 4]
    many = constraint_of([4096, *[8] * 8], [3, *[14] * 8], 4.0)
    project(many, dict.fromkeys(many.quantizers, 1.0))
    assert 0.98 * 4 <= many.now <= 4
    assert many.quantizers[0].bits == 4


def test_of_few_widths_the_combination_of_least_error_within_the_tolerance_is_held() -> None:
    """Against every combination, counted here."""
    sizes, minds = [100, 60, 10], [1.0, 5.0, 0.2]
    constraint = constraint_of(sizes, [2, 14, 14], 4.0)
    start = [quantizer.bits for quantizer in constraint.quantizers]
    project(constraint, dict(zip(constraint.quantizers, minds, strict=True)))
    error = lambda bits: sum(m * 4.0 ** (s - b) for m, s, b in zip(minds, start, bits, strict=True))  # noqa: E731
    every = [bits for bits in itertools.product(range(2, 15), repeat=3) if 3.92 <= constraint.spent(bits) <= 4]
    held = [quantizer.bits for quantizer in constraint.quantizers]
    assert 3.92 <= constraint.now <= 4
    assert error(held) == pytest.approx(min(error(bits) for bits in every))


@pytest.mark.parametrize(("start", "target", "nearest"), [(8, 4.5, 4), (2, 4.5, 4), (8, 5.95, 5)])
def test_widths_that_cannot_meet_a_budget_are_held_at_the_nearest_below_it(
    start: int, target: float, nearest: int
) -> None:
    """A single layer's weight is all there is: its average moves by whole bits."""
    network = pseudo_quantised(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1)), [torch.rand(4, 1, 8, 8)])
    held_at(network, [start])
    budget = AverageBits(network, target, strength=1.0, unit=None)
    allocate(network, budget, lambda: network(torch.rand(4, 1, 8, 8)))
    assert average_bits(operands_of(network)[0]) == nearest


def test_a_budget_that_projected_widths_miss_is_an_error_with_the_numbers() -> None:
    """Nothing below the target is reachable where what is held already spends more."""
    constraint = replace(constraint_of([10, 10], [8, 8], 4.0), spent=lambda bits: 3.0 + sum(bits) / 2)
    with pytest.raises(RequestError, match=r"target_bits=4.0: the widths spend 5"):
        project(constraint, dict.fromkeys(constraint.quantizers, 1.0))


def test_a_layer_that_no_call_reaches_is_named() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    with pytest.raises(RequestError, match=r"calibration=idle"):
        pseudo_quantised(Idle(), [torch.rand(2, 4)])
