"""Numbers that are none: found where they first appear, and never passed on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class NotFinite(RuntimeError):
    """A NaN or an infinity: what it was met in and, where that is known, at which step and in which layer first."""


def is_finite(tensor: Tensor) -> bool:
    """Whether no entry is NaN or infinite; whole numbers always are."""
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def require_finite(tensor: Tensor, what: str) -> Tensor:
    """The tensor itself; raises NotFinite where an entry is NaN or infinite."""
    if not is_finite(tensor):
        bad = int((~torch.isfinite(tensor)).sum())
        raise NotFinite(f"{what}: {bad} of {tensor.numel()} values are NaN or infinite")
    return tensor


@contextmanager
def first_layer(network: nn.Module, on_found: Callable[[str], None]) -> Iterator[None]:
    """`on_found('down.0.conv: its weight')` for the first layer whose parameters or output are not finite, once."""
    told = False

    def hook(name: str) -> Callable[..., None]:
        def look(module: nn.Module, _: Any, output: Any) -> None:
            nonlocal told
            reason = None if told else _reason(module, output)
            if reason is not None:
                told = True
                on_found(f"{name or type(module).__name__}: {reason}")

        return look

    leaves = [(name, module) for name, module in network.named_modules() if not list(module.children())]
    handles = [module.register_forward_hook(hook(name)) for name, module in leaves]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _reason(module: nn.Module, output: Any) -> str | None:
    for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
        if not is_finite(tensor):
            return f"its {name}"
    outputs = output if isinstance(output, tuple | list) else (output,)
    return None if all(is_finite(value) for value in outputs if isinstance(value, Tensor)) else "its output"
