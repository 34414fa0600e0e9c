"""Products that no layer's module performs: found among the operators that are executed, whoever calls them.

Attention as one kernel (`scaled_dot_product_attention`, `F.multi_head_attention_forward`), `torch.matmul`, `bmm` and
`einsum` of two activations, `F.linear` on a weight that belongs to another module: all of them end in a few operators
of ATen, and the shapes of their operands say how many products were summed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Product = tuple[int, Tensor, Tensor]
"""Multiply-accumulates, and the two operands."""


def _mm(a: Tensor, b: Tensor, *_: Any) -> Product:
    return a.shape[0] * a.shape[1] * b.shape[1], a, b


def _bmm(a: Tensor, b: Tensor, *_: Any) -> Product:
    return a.numel() * b.shape[2], a, b


def _mv(a: Tensor, b: Tensor, *_: Any) -> Product:
    return a.numel(), a, b


def _conv(x: Tensor, weight: Tensor, output: Tensor, transposed: bool) -> Product:
    """Each output value sums a filter's worth of products; transposed, each input value feeds a filter's worth."""
    return (x if transposed else output).numel() * weight[0].numel(), x, weight


def _attention(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> Product:
    """Q·Kᵀ and P·V for [B, heads, n, d]; keys shared by several heads are multiplied for each of them."""
    return q.numel() // q.shape[-1] * k.shape[-2] * (q.shape[-1] + v.shape[-1]), q, k


def _multi_head(q: Tensor, k: Tensor, v: Tensor, width: int, *_: Any) -> Product:
    """[B, n, width]: three projections, both products and the output's projection."""
    queries, keys = q.shape[0] * q.shape[1], k.shape[0] * k.shape[1]
    return 2 * (queries + keys) * width**2 + 2 * queries * k.shape[1] * width, q, k


FORMULAS: dict[str, Callable[..., Product]] = {
    "mm": _mm,
    "_int_mm": _mm,
    "_scaled_mm": _mm,
    "addmm": lambda _, a, b, *__: _mm(a, b),
    "bmm": _bmm,
    "baddbmm": lambda _, a, b, *__: _bmm(a, b),
    "mv": _mv,
    "addmv": lambda _, a, b, *__: _mv(a, b),
    "_native_multi_head_attention": _multi_head,
}
CONVOLUTIONS = ("convolution", "_convolution", "cudnn_convolution", "convolution_overrideable")


class Products(TorchDispatchMode):
    """`found(macs, a, b)` for every product under the mode while `listening()`."""

    def __init__(self, listening: Callable[[], bool], found: Callable[[int, Tensor, Tensor], None]) -> None:
        super().__init__()
        self.listening, self.found = listening, found

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if torch.is_inference_mode_enabled():  # there nothing is taken apart into its operators before it comes here
            with self:
                output = func.decompose(*args, **(kwargs or {}))
            if output is not NotImplemented:
                return output
        output = func(*args, **(kwargs or {}))
        if self.listening():
            product = product_of(func, args, output)
            if product is not None and product[0]:
                self.found(*product)
        return output


def product_of(func: Any, args: tuple[Any, ...], output: Any) -> Product | None:
    """What an executed operator multiplied; None for one that multiplies no matrices."""
    name = func.overloadpacket.__name__
    if name in FORMULAS:
        return FORMULAS[name](*args)
    if name in CONVOLUTIONS:
        return _conv(args[0], args[1], output, bool(args[6]) if name != "cudnn_convolution" else False)
    if name.startswith("_scaled_dot_product") and "backward" not in name:
        return _attention(*args)
    return None


def storages(tensors: Any) -> set[int]:
    """Which memory a network's own tensors lie in: a view of a weight is the weight."""
    return {tensor.untyped_storage()._cdata for tensor in tensors}


def lies_in(tensor: Tensor, places: set[int]) -> bool:
    return tensor.untyped_storage()._cdata in places
