"""Any attention with its activation-by-activation products as modules of their own, whoever computes them.

An attention keeps its own code: while it runs, the products of two activations that it asks torch for, in one kernel
(`scaled_dot_product_attention`, `F.multi_head_attention_forward`) or one by one (`matmul`, `bmm`, `baddbmm`), go
through the modules `products.qk` and `products.pv`. So every processor of diffusers, torchvision's windows and torch's
own multi-head attention are opened alike, and what is not executed is never claimed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

NAME = "products"


class Matmul(nn.Module):
    """a @ b over the last two dimensions; a place to hook, count and quantise."""

    is_matmul = True

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.matmul(a, b)


class Products(nn.Module):
    """The two products of one attention, in the order in which it executes them: Q·Kᵀ, and P·V.

    A linear attention, which has no softmax, multiplies V·Kᵀ and then that with Q: `kv` and `vq`.
    """

    def __init__(self, *, linear: bool) -> None:
        super().__init__()
        first, second = ("kv", "vq") if linear else ("qk", "pv")
        self.add_module(first, Matmul())
        self.add_module(second, Matmul())


class _Through(TorchFunctionMode):
    """Products of two activations through the modules of `products`; an attention over several parts takes turns."""

    def __init__(self, products: Products) -> None:
        super().__init__()
        self.products, self.turn = list(products.children()), 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        instead = INSTEAD.get(func)
        if instead is None or "out" in kwargs:  # what torch.compile made of a product writes into a buffer
            return func(*args, **kwargs)
        result = instead(self.product, *args, **kwargs)
        return func(*args, **kwargs) if result is NotImplemented else result

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """The next product; while its module runs, torch's functions are its own again."""
        product = self.products[self.turn % len(self.products)]
        self.turn += 1
        return product(a, b)


Product = Callable[[Tensor, Tensor], Tensor]


def _matmul(product: Product, a: Tensor, b: Tensor) -> Any:
    weighted = isinstance(a, nn.Parameter) or isinstance(b, nn.Parameter)
    return NotImplemented if weighted or min(a.ndim, b.ndim) < 3 else product(a, b)


def _baddbmm(product: Product, x: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    multiplied = alpha * product(a, b)
    return multiplied + beta * x if beta else multiplied


def _scaled_dot_product(
    product: Product,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(q k^T * scale + mask) v with plain products; a row that sees nothing is 0, as in torch's kernels."""
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = product(query * scale, key.transpose(-1, -2))
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        seen = attn_mask if attn_mask.dtype == torch.bool else None
        scores = scores + attn_mask if seen is None else scores.masked_fill(~seen, -math.inf)
        blind = (scores == -math.inf).all(-1, keepdim=True)
        probabilities = scores.softmax(-1).masked_fill(blind, 0.0)
    else:
        probabilities = scores.softmax(-1)
    return product(F.dropout(probabilities, dropout_p).to(value.dtype), value)


def _multi_head(
    product: Product,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim: int,
    heads: int,
    in_weight: Tensor | None,
    in_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout: float,
    out_weight: Tensor,
    out_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    **rest: Any,
) -> Any:
    """nn.MultiheadAttention on [n, B, width]; its rarer forms stay torch's own, and closed."""
    rare = (bias_k is not None, bias_v is not None, add_zero_attn, need_weights, query.ndim != 3)
    if any(rare) or key_padding_mask is not None or rest.get("is_causal"):
        return NotImplemented
    apart = [rest.get(f"{name}_proj_weight") for name in "qkv"]
    weights: Any = apart if in_weight is None else in_weight.chunk(3)
    biases = (None,) * 3 if in_bias is None else in_bias.chunk(3)
    q, k, v = (
        F.linear(x, weight, bias).unflatten(-1, (heads, -1)).permute(1, 2, 0, 3)
        for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
    )
    mixed = _scaled_dot_product(product, q, k, v, attn_mask, dropout if training else 0.0)
    return F.linear(mixed.permute(2, 0, 1, 3).flatten(2), out_weight, out_bias), None


INSTEAD: dict[Any, Callable[..., Any]] = {
    F.scaled_dot_product_attention: _scaled_dot_product,
    F.multi_head_attention_forward: _multi_head,
    torch.baddbmm: _baddbmm,
    **dict.fromkeys((torch.matmul, torch.bmm, Tensor.matmul, Tensor.bmm, Tensor.__matmul__), _matmul),
}


def is_attention(module: nn.Module) -> bool:
    """A module of diffusers with a processor, torch's multi-head attention, or another that is called attention."""
    if isinstance(module, nn.MultiheadAttention) or (hasattr(module, "processor") and hasattr(module, "to_q")):
        return True
    named = "Attention" in type(module).__name__ and any(isinstance(child, nn.Linear) for child in module.children())
    return named and not any(is_attention(child) for _, child in module.named_modules() if child is not module)


def attentions(network: nn.Module) -> dict[str, nn.Module]:
    """Every attention by its path."""
    return {name: module for name, module in network.named_modules() if is_attention(module)}


def explicit_attention(network: nn.Module) -> list[str]:
    """Give every attention products of its own; the paths of the attentions."""
    found = attentions(network)
    for module in found.values():
        if not hasattr(module, NAME):
            _open(module)
    return list(found)


def _open(attention: Any) -> None:
    """Its forward knows the module by an argument, so that a copy of the network runs through its own products."""
    linear = "Linear" in type(getattr(attention, "processor", None)).__name__
    attention.add_module(NAME, Products(linear=linear).train(attention.training))
    attention.forward = partial(_through_products, type(attention).forward, attention)


def _through_products(forward: Callable[..., Any], attention: Any, *args: Any, **kwargs: Any) -> Any:
    with _Through(attention.products):
        return forward(attention, *args, **kwargs)
