"""Pseudo-quantising a whole network: putting NIPQ's quantisers in place, and filling them from data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from fnmatch import fnmatch
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from parediff.cost import counting
from parediff.errors import RequestError
from parediff.models.diffusion.attention import Matmul, explicit_attention
from parediff.models.tree import named, put
from parediff.quantization.grid import IDENTITY_BITS, SILU_MINIMUM, SMALLEST_STEP, Grid, Kind
from parediff.quantization.layers import LAYERS, FoldableLayer, QuantizedMatmul
from parediff.quantization.noise import BitRange, Noise, NoiseQuantizer
from parediff.quantization.noisy import NoisyLayer, NoisyMatmul, products
from parediff.quantization.samples import Reservoir, Samples
from parediff.quantization.search import PowerError, Shrink

Argument = TypeVar("Argument")
Factory = Callable[[], NoiseQuantizer]


def install(
    network: nn.Module,
    range: BitRange,
    noise: Noise,
    *,
    skip: tuple[str, ...],
    attention: bool,
    image_input: bool,
    uniform_bits: int | None = None,
) -> list[str]:
    """Pseudo-quantise every convolution, linear and (with `attention`) product of activations; the paths.

    Paths that match a pattern of `skip` stay in full precision, and so does the image that the first layer sees unless
    `image_input`. With `uniform_bits` all widths are held there.
    """
    if any(isinstance(module, FoldableLayer | QuantizedMatmul) for module in network.modules()):
        raise RequestError(
            "method", "nipq", "one quantising method at a time is accepted: layers have quantisers already"
        )

    def quantizer() -> NoiseQuantizer:
        quantizer = NoiseQuantizer(range, noise)
        quantizer.fix(uniform_bits or 0)
        return quantizer

    if attention:
        explicit_attention(network)
    layers = [(path, layer) for path, layer in named(network, LAYERS)]
    if not layers:
        raise ValueError(f"{type(network).__name__} has no convolution and no linear layer to quantise")
    for path, layer in layers:
        put(network, path, _layer(layer, quantizer, skipped=_matches(path, skip)))
    if not image_input:
        _fixed(network.get_submodule(layers[0][0]).input_quantizer)
    for path, _ in list(named(network, Matmul)):
        put(network, path, _matmul(quantizer, skipped=_matches(path, skip)))
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return list(products(network))


def _layer(layer: nn.Module, quantizer: Factory, *, skipped: bool) -> NoisyLayer:
    wrapped = NoisyLayer(layer, quantizer(), quantizer()).to(next(layer.parameters()).device)
    if skipped:
        _fixed(wrapped.weight_quantizer)
        _fixed(wrapped.input_quantizer)
    return wrapped.train(layer.training)


def _matmul(quantizer: Factory, *, skipped: bool) -> NoisyMatmul:
    product = NoisyMatmul(quantizer(), quantizer())
    for operand in product.operands if skipped else ():
        _fixed(operand)
    return product.eval()


def _fixed(quantizer: Any) -> None:
    quantizer.fix(IDENTITY_BITS)


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(path, pattern) for pattern in patterns)


@torch.no_grad()
def calibrate(network: nn.Module, calls: Iterable[Argument], run: Callable[[Argument], Any]) -> None:
    """Fill boundaries, grids and operation counts while `run(call)` passes every call through the network."""
    inputs = _inputs(network)
    reservoirs = {path: Reservoir() for path in inputs}
    seen: dict[str, int] = {}
    with ExitStack() as stack:
        for path, quantizer in inputs.items():
            hook = quantizer.register_forward_pre_hook(_recorder(reservoirs[path], seen, path))
            stack.callback(hook.remove)
        for index, call in enumerate(calls):
            if index == 0:
                _count(network, call, run)
            else:
                run(call)
    for path, quantizer in inputs.items():
        _fill_input(quantizer, reservoirs[path].samples(), seen[path])
    for product in products(network).values():
        if isinstance(product, NoisyLayer) and int(product.weight_quantizer.fixed) != IDENTITY_BITS:
            _fill_weight(product)


def _inputs(network: nn.Module) -> Mapping[str, NoiseQuantizer]:
    """Every quantiser of an activation that is not left in full precision."""
    found: dict[str, NoiseQuantizer] = {}
    for path, product in products(network).items():
        operands = (product.input_quantizer,) if isinstance(product, NoisyLayer) else product.operands
        found |= {f"{path}.{index}": quantizer for index, quantizer in enumerate(operands)}
    return {path: quantizer for path, quantizer in found.items() if int(quantizer.fixed) != IDENTITY_BITS}


def _recorder(reservoir: Reservoir, seen: dict[str, int], path: str) -> Any:
    def record(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        reservoir.add(args[0])
        seen[path] = args[0].numel() // args[0].shape[0]

    return record


def _count(network: nn.Module, call: Any, run: Callable[[Any], Any]) -> None:
    """One call, with the multiply-accumulates of one example written into every product."""
    batch: list[int] = []
    hook = network.register_forward_pre_hook(
        lambda _, args, kwargs: batch.append(_batch(args, kwargs)), with_kwargs=True
    )
    try:
        with counting(network) as counter:
            run(call)
    finally:
        hook.remove()
    for path, product in products(network).items():
        if path in counter.layers:
            product.macs.fill_(counter.layers[path].macs // batch[0])


def _batch(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    return next(len(value) for value in (*args, *kwargs.values()) if isinstance(value, Tensor))


def _fill_input(quantizer: NoiseQuantizer, samples: Samples, elements: int) -> None:
    """The boundary with the least squared error at the starting bits, on the kind of grid that the values call for."""
    kind = kind_of(float(samples.low.min()), float(samples.high.max()))
    quantizer.fill(_searched(samples, int(quantizer.fixed) or round(quantizer.range.start), kind), kind, elements)


def _fill_weight(layer: NoisyLayer) -> None:
    """At 8 bits the best boundary is next to the largest weight; at 3 it is not, and bits would be learned to make up.

    The released code starts at softplus(max W), which is at least ln 2 (defect 3).
    """
    weight, quantizer = layer.weight.detach(), layer.weight_quantizer
    bits = int(quantizer.fixed) or round(quantizer.range.start)
    quantizer.fill(_searched(Samples.of(weight), bits, "symmetric"), "symmetric", weight.numel())


def _searched(samples: Samples, bits: int, kind: Kind) -> Tensor:
    grid = Grid(bits, kind)
    step, _ = Shrink(PowerError(2.0)).fit(samples, grid)
    return _usable(step[0] * grid.high)


def _usable(boundary: Tensor) -> Tensor:
    """1 for a tensor of zeros, whose boundary could otherwise never grow."""
    return boundary if float(boundary) > SMALLEST_STEP * 1e3 else torch.ones_like(boundary)


def kind_of(low: float, high: float) -> Kind:
    """unsigned for what has no negative values, shifted for what looks like SiLU's output, else symmetric."""
    if low >= 0:
        return "unsigned"
    reaches_minimum = SILU_MINIMUM - 1e-4 <= low <= 0.7 * SILU_MINIMUM
    return "shifted" if reaches_minimum and high > -SILU_MINIMUM else "symmetric"
