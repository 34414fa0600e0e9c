"""diffusers' own caches as changes to a network that can be put in place for one call, and leave nothing behind."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import diffusers
import torch
from diffusers.hooks import HookRegistry
from diffusers.hooks._helpers import TransformerBlockRegistry
from diffusers.hooks.hooks import CacheContext, StateManager
from torch import nn

from parediff.errors import RequestError, nearest

APPLY = {
    "FirstBlockCacheConfig": "apply_first_block_cache",
    "MagCacheConfig": "apply_mag_cache",
    "TaylorSeerCacheConfig": "apply_taylorseer_cache",
    "PyramidAttentionBroadcastConfig": "apply_pyramid_attention_broadcast",
    "FasterCacheConfig": "apply_faster_cache",
}
"""diffusers' configuration of a cache, and the function that hooks it to a network."""
STACKS = ("FirstBlockCacheConfig", "MagCacheConfig")
REGISTRY = "_diffusers_hook"


def fields_of(config: str) -> list[str]:
    """The settings of a cache."""
    return [field.name for field in fields(getattr(diffusers.hooks, config)) if not field.name.startswith("_")]


def check_settings(config: str, settings: Mapping[str, Any]) -> None:
    """Raise RequestError for a cache that diffusers does not have, or a setting that the cache does not."""
    if config not in APPLY:
        raise RequestError("config", config, f"one of {', '.join(APPLY)} is accepted")
    known = fields_of(config)
    for name, value in settings.items():
        if name not in known:
            raise RequestError(f"settings.{name}", value, f"{', '.join(known)} are accepted.{nearest(name, known)}")


@dataclass
class Count:
    """How often the hooked modules were called, and how often they computed."""

    asked: int = 0
    computed: int = 0

    def reset(self) -> None:
        self.asked = self.computed = 0


@dataclass(frozen=True)
class Hooked:
    """A cache's hooked forwards by module, taken off again; each holds the state of one stream of calls."""

    forwards: list[tuple[nn.Module, Callable[..., Any]]]
    root: Callable[..., Any] | None
    managers: list[StateManager] = field(default_factory=list)

    def at(self, context: CacheContext | None) -> None:
        for manager in self.managers:
            manager.set_context(context)

    def state(self) -> Any:
        """The one state that all blocks share, where the cache has one."""
        return self.managers[0].get_state()


def hooked(
    denoiser: nn.Module, config: str, settings: Mapping[str, Any], count: Count, plain: Callable[..., Any]
) -> Hooked:
    """Hook a cache to a network and take it off; `plain` is what a hook on the network itself goes on to.

    Raises RequestError where diffusers cannot hook it to such a network.
    """
    before = denoiser.__dict__.get("forward")
    denoiser.__dict__["forward"] = plain
    try:
        _apply(denoiser, config, settings)
        made = [(module, module.__dict__["forward"]) for module in denoiser.modules() if _hooks(module)]
        hooks = [hook for module, _ in made for hook in _hooks(module)]
    finally:
        _take_off(denoiser)
        del denoiser.__dict__["forward"]
        if before is not None:
            denoiser.__dict__["forward"] = before
    inner = [(module, _asked(forward, count)) for module, forward in made if module is not denoiser]
    if not inner:
        accepted = (
            f"a network with blocks or attention that diffusers hooks is accepted; {type(denoiser).__name__} has none"
        )
        raise RequestError("method", config, accepted)
    for hook in hooks:
        if hook.fn_ref.original_forward is not plain:
            hook.fn_ref.original_forward = _computed(hook.fn_ref.original_forward, count)
    root = next((forward for module, forward in made if module is denoiser), None)
    managers = {id(value): value for hook in hooks for value in vars(hook).values() if isinstance(value, StateManager)}
    return Hooked(inner, root, list(managers.values()))


def _check_blocks(denoiser: nn.Module, config: str) -> None:
    """Raise RequestError for blocks that a cache of whole stacks calls by names, or for outputs, that they lack."""
    if config not in STACKS:
        return
    for blocks in denoiser.children():
        for block in blocks if isinstance(blocks, nn.ModuleList) else []:
            kind: Any = type(block)
            if kind in TransformerBlockRegistry._registry and not _fits(block, config):
                accepted = "a transformer whose blocks take hidden_states and return every stream they take is accepted"
                raise RequestError("model", type(denoiser).__name__, f"{accepted}; {kind.__name__} does not")


def _fits(block: Any, config: str) -> bool:
    dropped = bool(getattr(block, "context_pre_only", False)) and config == "FirstBlockCacheConfig"
    return "hidden_states" in inspect.signature(type(block).forward).parameters and not dropped


def _apply(denoiser: nn.Module, config: str, settings: Mapping[str, Any]) -> None:
    _check_blocks(denoiser, config)
    kind, apply = getattr(diffusers.hooks, config), getattr(diffusers.hooks, APPLY[config])
    with _silent():
        try:
            apply(denoiser, kind(**settings))
        except (ValueError, IndexError, AssertionError) as error:
            known = ", ".join(sorted(block.__name__ for block in TransformerBlockRegistry._registry))
            accepted = f"a transformer of at least two blocks of these is accepted: {known}"
            raise RequestError("model", type(denoiser).__name__, accepted) from error


@contextmanager
def _silent() -> Iterator[None]:
    """diffusers warns of what is asked for on purpose."""
    logging = diffusers.utils.logging
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _hooks(module: nn.Module) -> list[Any]:
    registry = module.__dict__.get(REGISTRY)
    return list(registry.hooks.values()) if isinstance(registry, HookRegistry) else []


def _take_off(denoiser: nn.Module) -> None:
    for module in denoiser.modules():
        if isinstance(module.__dict__.get(REGISTRY), HookRegistry):
            del module.__dict__[REGISTRY]
            if module is not denoiser:
                module.__dict__.pop("forward", None)


def _asked(forward: Callable[..., Any], count: Count) -> Callable[..., Any]:
    def called(*args: Any, **kwargs: Any) -> Any:
        count.asked += 1
        return forward(*args, **kwargs)

    return called


def _computed(forward: Callable[..., Any], count: Count) -> Callable[..., Any]:
    def called(*args: Any, **kwargs: Any) -> Any:
        count.computed += 1
        return forward(*args, **kwargs)

    return called


def context_of(name: str, step: int, steps: int) -> CacheContext:
    return CacheContext(name, step_index=step, num_inference_steps=steps)


def tensor_format(x: torch.Tensor, channels: int) -> str:
    """How FasterCache calls the layout of latents [B, C, H, W], [B, C, F, H, W] or [B, F, C, H, W]."""
    if x.ndim == 4:
        return "BCHW"
    return "BCFHW" if x.shape[1] == channels else "BFCHW"
