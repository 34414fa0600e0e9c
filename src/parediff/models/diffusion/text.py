"""Text encoders' outputs, computed once: candidates of a study draw from the same prompts."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from parediff.atomic import write_atomically

PLAIN = (str, int, float, bool, type(None))
HELD = 64
"""Batches of prompts kept in memory."""


@dataclass
class PromptStore:
    """What `encode_prompt` returned for the arguments it was given; on disk below `folder`, where there is one.

    `origin` stands for the encoders' weights. Text encoders are no part of what is compressed or counted.
    """

    folder: Path | None = None
    origin: str = ""
    held: dict[str, Any] = field(default_factory=dict)
    hits: int = 0

    def recall(self, key: str) -> Any:
        """The stored value, or None."""
        if key not in self.held and self.folder is not None and (self.folder / f"{key}.safetensors").exists():
            self.held[key] = _read(self.folder / f"{key}.safetensors")
        return self.held.get(key)

    def keep(self, key: str, value: Any) -> None:
        while len(self.held) >= HELD:
            del self.held[next(iter(self.held))]
        self.held[key] = value
        if self.folder is not None:
            write_atomically(self.folder / f"{key}.safetensors", _bytes(value))


@contextmanager
def prompts_kept(pipeline: Any, store: PromptStore) -> Iterator[None]:
    """While the block runs, the pipeline encodes no prompt that `store` holds."""
    plain = getattr(pipeline, "encode_prompt", None)
    if plain is None:
        yield
        return
    signature = inspect.signature(plain)

    @functools.wraps(plain)
    def encode_prompt(*args: Any, **kwargs: Any) -> Any:
        key = _key(store.origin, signature.bind(*args, **kwargs).arguments, pipeline)
        if key is None:
            return plain(*args, **kwargs)
        value = store.recall(key)
        if value is None:
            value = plain(*args, **kwargs)
            store.keep(key, value)
        else:
            store.hits += 1
        return _on(value, pipeline.device)

    pipeline.encode_prompt = encode_prompt
    try:
        yield
    finally:
        del pipeline.encode_prompt


def _key(origin: str, arguments: dict[str, Any], pipeline: Any) -> str | None:
    """None where an argument is no plain value: what was handed over encoded is not encoded again."""
    plain = {name: value for name, value in arguments.items() if name not in ("self", "device")}
    if not _is_plain(plain):
        return None
    text = json.dumps([origin, type(pipeline).__name__, str(_dtype(pipeline)), plain], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _dtype(pipeline: Any) -> Any:
    return next((part.dtype for part in pipeline.components.values() if isinstance(part, torch.nn.Module)), None)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return isinstance(value, (*PLAIN, torch.dtype))


def _on(value: Any, device: torch.device) -> Any:
    """Copies on the device, so that no pipeline writes into what is kept."""
    if isinstance(value, Tensor):
        return value.to(device, copy=True)
    if isinstance(value, list | tuple):
        return type(value)(_on(entry, device) for entry in value)
    return value


def _bytes(value: Any) -> bytes:
    tensors: dict[str, Tensor] = {}
    shape = json.dumps(_described(value, tensors))
    return save(tensors, metadata={"shape": shape})


def _described(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[str(len(tensors))] = value.detach().cpu().contiguous().clone()
        return {"tensor": str(len(tensors) - 1)}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_described(entry, tensors) for entry in value]}
    return {"value": value}


def _read(file: Path) -> Any:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as content:
        shape = json.loads(content.metadata()["shape"])
    return _restored(shape, load_file(file))


def _restored(shape: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    (kind, content), *_ = shape.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "value":
        return content
    entries = [_restored(entry, tensors) for entry in content]
    return entries if kind == "list" else tuple(entries)
